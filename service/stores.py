"""Opens what the configuration names: the event store's database, a replica's storage."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from pipeline.postgresql_database import PostgresqlDatabase
from pipeline.storage_lmdb import LmdbStorage
from pipeline.storage_postgresql import PostgresqlStorage
from pipeline.storage_redis import RedisStorage
from service.configuration import Configuration, ReplicaSection
from synchroscope.digest import Hasher
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import ReplicaStorage
from synchroscope.view import View


class ReplicaPlan(Struct, frozen=True):
    """A replica as it is configured.

    ``is_shared``: its storage is a server, so any process may work on it; else one process owns it.
    """

    name: str
    view: View
    section: ReplicaSection

    @property
    def is_shared(self) -> bool:
        """Whether several processes may divide the replica's partitions."""
        return self.section.redis is not None or self.section.postgresql is not None


def replica_plans(configuration: Configuration) -> list[ReplicaPlan]:
    """Return the configured replicas."""
    return [
        ReplicaPlan(section.name, configuration.view(section.model), section)
        for section in configuration.replicas
    ]


def make_hasher(configuration: Configuration) -> Hasher:
    """Return the digest's hasher."""
    return configuration.validator.digest.hasher()


def open_database(configuration: Configuration) -> PostgresqlDatabase:
    """Connect to the event store's database, whose tables are made when absent."""
    section = configuration.event_store.postgresql
    return PostgresqlDatabase(section.dsn, section.schema)


def open_storage(plan: ReplicaPlan) -> ReplicaStorage:
    """Open a replica's storage."""
    section = plan.section
    if section.redis is not None:
        return RedisStorage(section.redis.url, plan.name, prefix=section.redis.prefix)
    if section.postgresql is not None:
        database = PostgresqlDatabase(section.postgresql.dsn, section.postgresql.schema)
        return PostgresqlStorage(database, plan.name)
    if section.lmdb is not None:
        return LmdbStorage(Path(section.lmdb.path))
    return MemoryStorage()


def migrate(configuration: Configuration) -> None:
    """Make the tables of every database that the configuration names."""
    sections = [configuration.event_store.postgresql]
    sections += [r.postgresql for r in configuration.replicas if r.postgresql is not None]
    for dsn, schema in {(section.dsn, section.schema) for section in sections}:
        PostgresqlDatabase(dsn, schema).close()
