-- Replica storages, readable by any SQL client:
--     SELECT fields -> 'riskTolerance' -> 0 FROM replica_aggregates
--     WHERE replica = 'scorer@1' AND context_type = 'financial' AND subject = 'user:1'
-- `fields` is {name: [value, sequence]}; json, not jsonb, for jsonb would change numbers and refuse
-- some texts.

CREATE TABLE replica_lives(
    replica text PRIMARY KEY,
    incarnation text NOT NULL
);

-- An update touches no index, so the space left in a page takes the next version of its rows.
CREATE TABLE replica_aggregates(
    replica text COLLATE "C" NOT NULL,
    context_type text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    hash bytea NOT NULL,
    sequence bigint NOT NULL,
    fields json NOT NULL,
    missing bigint[] NOT NULL,
    PRIMARY KEY(replica, context_type, subject)
) WITH (fillfactor = 70);
CREATE INDEX replica_aggregates_bucket ON replica_aggregates(partition, replica, hash);

-- The state is replaced by each commit and does not compress; what it leaves is swept soon.
CREATE TABLE replica_partitions(
    replica text NOT NULL,
    partition integer NOT NULL,
    version bigint NOT NULL,
    state bytea,
    PRIMARY KEY(replica, partition)
) WITH (
    fillfactor = 10,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 20000
);
ALTER TABLE replica_partitions ALTER COLUMN state SET STORAGE EXTERNAL;

CREATE TABLE replica_journal(
    replica text NOT NULL,
    partition integer NOT NULL,
    number bigint NOT NULL,
    start_position bigint NOT NULL,
    end_position bigint NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY(replica, partition, number)
);

-- Empties a replica's storage and begins a life, if the life is still the one that was seen.
CREATE FUNCTION replica_begin(of_replica text, seen_life text, new_life text)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF seen_life IS NULL THEN
        INSERT INTO replica_lives VALUES(of_replica, new_life) ON CONFLICT DO NOTHING;
    ELSE
        UPDATE replica_lives SET incarnation = new_life
        WHERE replica = of_replica AND incarnation = seen_life;
    END IF;
    IF NOT FOUND THEN RETURN false; END IF;
    DELETE FROM replica_aggregates WHERE replica = of_replica;
    DELETE FROM replica_partitions WHERE replica = of_replica;
    DELETE FROM replica_journal WHERE replica = of_replica;
    RETURN true;
END $$;

-- Writes all of a commit, or nothing and returns false: when the life is not the one that was seen,
-- or the partition's version is not. Version 0: the partition has no row yet. A new version is one
-- that no other commit ever had: counted up, it would be the same again after a fall back to an
-- older copy of the database and as many commits of another process.
CREATE FUNCTION replica_commit(
    of_replica text,
    seen_life text,
    of_partition integer,
    seen_version bigint,
    new_version bigint,
    new_state bytea,
    context_types text[],
    subjects text[],
    partitions integer[],
    hashes bytea[],
    sequences bigint[],
    new_fields text[],
    new_missing text[],
    chunk_start bigint,
    chunk_end bigint,
    chunk_data bytea,
    journal_floor bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    life text;
BEGIN
    -- Held to the end, so that nobody begins another life between this look and the commit.
    SELECT incarnation INTO life FROM replica_lives WHERE replica = of_replica FOR SHARE;
    IF life IS DISTINCT FROM seen_life THEN RETURN false; END IF;
    IF seen_version = 0 THEN
        INSERT INTO replica_partitions VALUES(of_replica, of_partition, new_version, new_state)
        ON CONFLICT DO NOTHING;
    ELSIF new_state IS NULL THEN
        UPDATE replica_partitions SET version = new_version
        WHERE replica = of_replica AND partition = of_partition AND version = seen_version;
    ELSE
        UPDATE replica_partitions SET version = new_version, state = new_state
        WHERE replica = of_replica AND partition = of_partition AND version = seen_version;
    END IF;
    IF NOT FOUND THEN RETURN false; END IF;

    INSERT INTO replica_aggregates
    SELECT of_replica, context_type, subject, partition, hash, sequence, fields::json,
        missing::bigint[]
    FROM unnest(context_types, subjects, partitions, hashes, sequences, new_fields, new_missing)
        AS new(context_type, subject, partition, hash, sequence, fields, missing)
    ON CONFLICT(replica, context_type, subject) DO UPDATE SET
        partition = excluded.partition, hash = excluded.hash, sequence = excluded.sequence,
        fields = excluded.fields, missing = excluded.missing;

    IF chunk_data IS NOT NULL THEN
        INSERT INTO replica_journal
        SELECT of_replica, of_partition, coalesce(max(number), 0) + 1, chunk_start, chunk_end,
            chunk_data
        FROM replica_journal WHERE replica = of_replica AND partition = of_partition;
    END IF;
    IF journal_floor > 0 THEN
        DELETE FROM replica_journal WHERE replica = of_replica AND partition = of_partition
            AND end_position <= journal_floor;
    END IF;
    RETURN true;
END $$;
