"""A PostgreSQL schema for one test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from uuid import uuid4

import psycopg

from pipeline.postgresql_database import PostgresqlDatabase
from tests.servers import postgresql_dsn


@contextmanager
def schema_name() -> Iterator[str]:
    """Name a schema, and drop it in the end."""
    dsn, name = postgresql_dsn(), f"test_{uuid4().hex[:12]}"
    try:
        yield name
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE".encode())


@contextmanager
def postgresql_schema() -> Iterator[PostgresqlDatabase]:
    """Open a database on a schema of its own."""
    with schema_name() as name, closing(PostgresqlDatabase(postgresql_dsn(), name)) as database:
        yield database


@contextmanager
def empty_schema() -> Iterator[str]:
    """Make a schema without tables, and drop it in the end."""
    with schema_name() as name:
        execute(f"CREATE SCHEMA {name}")
        yield name


def execute(query: str) -> None:
    """Run a statement, committed at once."""
    with psycopg.connect(postgresql_dsn(), autocommit=True) as connection:
        connection.execute(query.encode())
