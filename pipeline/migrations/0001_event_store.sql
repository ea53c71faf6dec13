-- The event store. Commit order is position order: every append first locks the row of `marks` that
-- counts positions, so the next one begins when this one is visible.

CREATE TABLE marks(name text PRIMARY KEY, value bigint NOT NULL) WITH (fillfactor = 10);
INSERT INTO marks VALUES('events', 0), ('dead letters', 0);

-- Partitions of ten million positions are made by the store, each with indexes of its own that keep
-- event_id and (context_type, subject, sequence) unique; the store looks through all of them.
CREATE TABLE events(
    position bigint NOT NULL,
    context_type text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    event_id uuid NOT NULL,
    timestamp double precision NOT NULL,
    recorded double precision NOT NULL,
    correlation_id text,
    data bytea NOT NULL,
    PRIMARY KEY(position)
) PARTITION BY RANGE(position);

CREATE TABLE aggregates(
    hash bytea NOT NULL,
    context_type text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    next_due double precision,
    state bytea NOT NULL,
    PRIMARY KEY(hash, context_type, subject)
);
CREATE INDEX aggregates_next_due ON aggregates(next_due, context_type, subject)
    WHERE next_due IS NOT NULL;

CREATE TABLE dead_letters(
    position bigint PRIMARY KEY,
    reason text NOT NULL,
    detail text NOT NULL,
    source text NOT NULL,
    data bytea NOT NULL,
    recorded double precision NOT NULL
);
CREATE TABLE dead_letter_counts(reason text PRIMARY KEY, total bigint NOT NULL);

CREATE TABLE tracking(source text PRIMARY KEY, progress text NOT NULL);
CREATE TABLE counters(name text PRIMARY KEY, total bigint NOT NULL);
