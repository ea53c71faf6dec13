-- Replica storages: readable by any SQL client. `fields` is {name: [value, sequence]}; json, not
-- jsonb, for jsonb would change numbers and refuse some texts.

CREATE TABLE replica_lives(
    replica text PRIMARY KEY,
    incarnation text NOT NULL
);

CREATE TABLE replica_aggregates(
    replica text NOT NULL,
    hash bytea NOT NULL,
    context_type text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    sequence bigint NOT NULL,
    fields json NOT NULL,
    missing bigint[] NOT NULL,
    PRIMARY KEY(replica, hash, context_type, subject)
);

CREATE TABLE replica_partitions(
    replica text NOT NULL,
    partition integer NOT NULL,
    version bigint NOT NULL,
    state bytea,
    PRIMARY KEY(replica, partition)
) WITH (fillfactor = 10);

CREATE TABLE replica_journal(
    replica text NOT NULL,
    partition integer NOT NULL,
    number bigint NOT NULL,
    start_position bigint NOT NULL,
    end_position bigint NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY(replica, partition, number)
);
