-- The event store. Commit order is position order: every append first locks the row of `marks` that
-- counts positions, so the next one begins when this one is visible. An append is one function call
-- and its own transaction, so a client that hangs or dies in the middle holds no lock.

CREATE TABLE marks(name text PRIMARY KEY, value bigint NOT NULL) WITH (fillfactor = 10);
INSERT INTO marks VALUES('events', 0), ('dead letters', 0), ('positions per partition', 10000000);

-- Partitioned by position. Each partition has indexes of its own that keep event_id and
-- (context_type, subject, sequence) unique; `append` looks through all of them.
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

-- Makes the partitions from one position to another, unless they exist. Attaching lets readers go
-- on, where CREATE TABLE ... PARTITION OF would wait for the longest of them.
CREATE FUNCTION make_partitions(first_position bigint, last_position bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    size bigint := (SELECT value FROM marks WHERE name = 'positions per partition');
    partition_name text;
BEGIN
    FOR number IN first_position / size .. last_position / size LOOP
        partition_name := 'events_' || lpad(number::text, 6, '0');
        CONTINUE WHEN to_regclass(partition_name) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I(LIKE events)', partition_name);
        EXECUTE format('ALTER TABLE %I ADD PRIMARY KEY(position)', partition_name);
        EXECUTE format('CREATE UNIQUE INDEX ON %I(event_id)', partition_name);
        EXECUTE format(
            'CREATE UNIQUE INDEX ON %I(context_type, subject, sequence)', partition_name);
        EXECUTE format(
            'ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
            partition_name, number * size, (number + 1) * size);
    END LOOP;
END $$;

-- Looking something up for each element of an array is written as LATERAL (... OFFSET 0), so that it
-- goes by the index, whatever size a table had when the plan was made.
--
-- Writes all of an append, or nothing: then `conflict` is the number of the expectation that is not
-- met, `actual` and `current_state` say how that aggregate stands, or `repeated` names what is
-- stored already. `has_repeats`: the events repeat each other.
CREATE FUNCTION append(
    expected_hashes bytea[],
    expected_types text[],
    expected_subjects text[],
    expected_sequences bigint[],
    event_types text[],
    event_subjects text[],
    event_sequences bigint[],
    event_ids uuid[],
    event_timestamps double precision[],
    event_correlation_ids text[],
    event_data bytea[],
    has_repeats boolean,
    newest_microsecond bigint,
    state_hashes bytea[],
    state_types text[],
    state_subjects text[],
    state_sequences bigint[],
    state_dues double precision[],
    states bytea[],
    letter_reasons text[],
    letter_details text[],
    letter_sources text[],
    letter_data bytea[],
    tracking_sources text[],
    tracking_progress text[],
    counter_names text[],
    counter_additions bigint[],
    recorded_at double precision,
    OUT conflict bigint,
    OUT actual bigint,
    OUT current_state bytea,
    OUT repeated text
) LANGUAGE plpgsql AS $$
DECLARE
    event_count bigint := cardinality(event_ids);
    letter_count bigint := cardinality(letter_reasons);
    head bigint;
    letter_head bigint;
BEGIN
    SELECT value INTO STRICT head FROM marks WHERE name = 'events' FOR UPDATE;

    SELECT wanted.number, coalesce(a.sequence, 0), a.state INTO conflict, actual, current_state
    FROM unnest(expected_hashes, expected_types, expected_subjects, expected_sequences)
        WITH ORDINALITY AS wanted(hash, context_type, subject, sequence, number)
    LEFT JOIN LATERAL (
        SELECT sequence, state FROM aggregates
        WHERE hash = wanted.hash AND context_type = wanted.context_type
            AND subject = wanted.subject
        OFFSET 0
    ) a ON true
    WHERE coalesce(a.sequence, 0) <> wanted.sequence
    ORDER BY wanted.number LIMIT 1;
    IF conflict IS NOT NULL THEN RETURN; END IF;

    IF event_count > 0 THEN
        -- No index is unique over all partitions; nobody else appends meanwhile.
        repeated := CASE WHEN has_repeats THEN 'one event repeats another' END;
        IF repeated IS NULL THEN
            SELECT format('event_id %s', stored.event_id) INTO repeated
            FROM unnest(event_ids) AS new(event_id), LATERAL (
                SELECT event_id FROM events WHERE event_id = new.event_id OFFSET 0
            ) stored LIMIT 1;
        END IF;
        IF repeated IS NULL THEN
            SELECT format('sequence %s of %s of %s', new.sequence, new.context_type, new.subject)
            INTO repeated
            FROM unnest(event_types, event_subjects, event_sequences)
                AS new(context_type, subject, sequence), LATERAL (
                SELECT FROM events
                WHERE context_type = new.context_type AND subject = new.subject
                    AND sequence = new.sequence
                OFFSET 0
            ) stored LIMIT 1;
        END IF;
        IF repeated IS NOT NULL THEN RETURN; END IF;
        -- The next partition is there long before it is needed.
        PERFORM make_partitions(head + 1, head + event_count + value / 10)
        FROM marks WHERE name = 'positions per partition';
        INSERT INTO events
        SELECT head + number, context_type, subject, sequence, event_id, timestamp, recorded_at,
            correlation_id, data
        FROM unnest(event_types, event_subjects, event_sequences, event_ids, event_timestamps,
                event_correlation_ids, event_data)
            WITH ORDINALITY AS new(context_type, subject, sequence, event_id, timestamp,
                correlation_id, data, number);
        UPDATE marks SET value = head + event_count WHERE name = 'events';
        INSERT INTO marks VALUES('newest timestamp in microseconds', newest_microsecond)
        ON CONFLICT(name) DO UPDATE SET value = greatest(marks.value, excluded.value);
    END IF;

    INSERT INTO aggregates
    SELECT * FROM unnest(
        state_hashes, state_types, state_subjects, state_sequences, state_dues, states)
    ON CONFLICT(hash, context_type, subject) DO UPDATE SET
        sequence = excluded.sequence, next_due = excluded.next_due, state = excluded.state;

    IF letter_count > 0 THEN
        UPDATE marks SET value = value + letter_count WHERE name = 'dead letters'
        RETURNING value - letter_count INTO STRICT letter_head;
        INSERT INTO dead_letters
        SELECT letter_head + number, reason, detail, source, data, recorded_at
        FROM unnest(letter_reasons, letter_details, letter_sources, letter_data)
            WITH ORDINALITY AS new(reason, detail, source, data, number);
        INSERT INTO dead_letter_counts
        SELECT reason, count(*) FROM unnest(letter_reasons) AS new(reason) GROUP BY reason
        ON CONFLICT(reason) DO UPDATE SET total = dead_letter_counts.total + excluded.total;
    END IF;

    INSERT INTO tracking SELECT * FROM unnest(tracking_sources, tracking_progress)
    ON CONFLICT(source) DO UPDATE SET progress = excluded.progress;
    INSERT INTO counters SELECT * FROM unnest(counter_names, counter_additions)
    ON CONFLICT(name) DO UPDATE SET total = counters.total + excluded.total;
END $$;
