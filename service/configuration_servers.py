"""Asks the servers that a configuration names how they are; nothing is created or changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Literal

from msgspec import Struct

from pipeline.kafka_topics import check_topics
from pipeline.postgresql_database import PostgresqlDatabase
from pipeline.postgresql_database import server_of as postgresql_server
from pipeline.redis_connection import RedisConnection
from pipeline.redis_connection import server_of as redis_server
from pipeline.storage_redis import RedisStorage
from service.configuration import Configuration, PostgresqlSection, RedisSection
from synchroscope.errors import (
    ConfigurationError,
    StorageError,
    SynchroscopeError,
    UnavailableError,
)

State = Literal["fine", "wrong", "away"]


class Answer(Struct, frozen=True):
    """How a server is: ``away`` does not answer, ``wrong`` answers and has problems."""

    server: str
    state: State
    problems: list[str] = []


def ask_servers(configuration: Configuration) -> Iterator[Answer]:
    """Ask Kafka, and every PostgreSQL schema and Redis prefix once; one answer comes at a time."""
    settings = configuration.log.kafka
    yield _answer(settings.server, partial(check_topics, settings))
    databases = [configuration.event_store.postgresql]
    databases += [one.postgresql for one in configuration.replicas if one.postgresql is not None]
    for database in dict.fromkeys(databases):
        name = f"{postgresql_server(database.dsn)}, schema {database.schema}"
        yield _answer(name, partial(_postgresql, database))
    storages = {one.redis: one.name for one in configuration.replicas if one.redis is not None}
    for storage, replica in storages.items():
        name = f"{redis_server(storage.url)}, prefix {storage.prefix}"
        yield _answer(name, partial(_redis, storage, replica))


def _answer(server: str, ask: Callable[[], list[str]]) -> Answer:
    try:
        problems = ask()
    except UnavailableError as error:
        return Answer(server, "away", [str(error)])
    except SynchroscopeError as error:
        return Answer(server, "wrong", [str(error)])
    return Answer(server, "wrong" if problems else "fine", problems)


def _postgresql(section: PostgresqlSection) -> list[str]:
    with closing(PostgresqlDatabase(section.dsn, section.schema, migrate=False)) as database:
        [[is_read_only]] = database.query("SELECT current_setting('transaction_read_only')")
        if is_read_only == "on":
            return [
                f"{database.server}: the database is read-only: name the primary, or lift "
                "default_transaction_read_only"
            ]
    return []


def _redis(section: RedisSection, replica: str) -> list[str]:
    with closing(RedisStorage(section.url, replica, prefix=section.prefix)) as storage:
        storage.incarnation()
    with closing(RedisConnection(section.url)) as connection:
        try:
            role = connection.command("ROLE")[0]
        except (ConfigurationError, StorageError):
            return []  # Some managed servers do not say, and not every user may ask.
        if role == b"slave":
            return [
                f"{connection.server}: this server is a read-only copy: name the primary, or "
                "REPLICAOF NO ONE"
            ]
    return []
