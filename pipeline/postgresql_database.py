"""One connection to PostgreSQL that several stores share, its migrations, and what its errors mean.

Everything lives in one schema. The connection belongs to one thread. When it breaks, whoever used
it gets `UnavailableError`, and the next use opens a new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import psycopg
from psycopg import sql
from xxhash import xxh3_64_hexdigest

from synchroscope.errors import ConfigurationError, StorageError, UnavailableError

CONNECT_SECONDS = 3
STATEMENT_SECONDS = 30
SILENCE_SECONDS = 10
"""Without any answer to what was sent for so long, the connection counts as lost."""
MIGRATIONS = Path(__file__).resolve().parent / "migrations"

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_MIGRATION_LOCK = 7_201_963_104
_CONNECTION_REFUSALS = (
    ("password authentication failed", "check the user and the password in event_store or replica"),
    ("no password supplied", "give the password in the DSN, as ${NAME} or ${file:PATH}"),
    ("no pg_hba.conf entry", "let this host and user in (pg_hba.conf), or use sslmode=require"),
    ("does not exist", "create it, or name another one in the DSN"),
    ("permission denied", "grant CONNECT on the database to this user"),
)
_REMEDIES = {
    "53100": "the disk is full: free some space; nothing was half written",
    "53200": "the server is out of memory: give it more, or lower its settings",
    "25006": "the database is read-only: name the primary, or lift default_transaction_read_only",
    "42501": "the user may not do this: grant it CREATE on the database and USAGE on the schema",
}
_PASSING = {"53300", "53400", "55P03", "40001", "40P01", "57014"}


class PostgresqlDatabase:
    """A connection that comes back, on one schema whose tables are up to date.

    Parameters
    ----------
    dsn: As libpq takes it: ``postgresql://user@host:port/database``.
    schema: Where the tables are; made when absent. Letters, digits and underscores.
    migrate: Bring the tables up to date at the first connection; False refuses a schema that is
        not.
    """

    def __init__(self, dsn: str, schema: str = "synchroscope", *, migrate: bool = True) -> None:
        if not _SCHEMA.fullmatch(schema):
            raise ConfigurationError(
                f"schema {schema!r}: lower case letters, digits and underscores are allowed"
            )
        try:
            parts = psycopg.conninfo.conninfo_to_dict(dsn)
        except psycopg.ProgrammingError as error:
            reason = str(error).strip().split('"')[0]
            raise ConfigurationError(
                f"the PostgreSQL DSN cannot be read ({reason.strip()}): "
                "write postgresql://user@host:port/database"
            ) from None
        place = f"{parts.get('host') or 'localhost'}:{parts.get('port') or 5432}"
        self.server = f"postgresql {place}/{parts.get('dbname') or ''}"
        self.schema = schema
        self._dsn = dsn
        self._connection: psycopg.Connection[Any] | None = None
        try:
            self._connect()
            if migrate:
                self._migrate()
            self._check_version()
        except BaseException:
            self.close()
            raise

    # -- the connection ----------------------------------------------------------------------

    def _connect(self) -> psycopg.Connection[Any]:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        try:
            self._connection = psycopg.connect(
                self._dsn,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                application_name="synchroscope",
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=2,
                tcp_user_timeout=SILENCE_SECONDS * 1000,
                options=f"-c search_path={self.schema} "
                f"-c statement_timeout={STATEMENT_SECONDS * 1000} "
                f"-c idle_in_transaction_session_timeout={STATEMENT_SECONDS * 1000}",
            )
        except psycopg.Error as error:
            self._refused(error)
        return self._connection

    def _refused(self, error: psycopg.Error) -> NoReturn:
        text = _first_line(error)
        for sign, remedy in _CONNECTION_REFUSALS:
            if sign in text:
                raise ConfigurationError(f"{self.server} refuses: {text}: {remedy}") from None
        raise UnavailableError(
            self.server, f"cannot be reached ({text}): check the address, and that it runs"
        ) from None

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor[Any]]:
        """Run the block as one transaction on a cursor: all of it is stored, or nothing."""
        connection = self._connect()
        try:
            with connection.transaction(), connection.cursor() as cursor:
                yield cursor
        except psycopg.Error as error:
            self._fail(error)

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run one statement by itself and return its rows."""
        connection = self._connect()
        try:
            return connection.execute(statement.encode(), parameters or None).fetchall()
        except psycopg.Error as error:
            self._fail(error)

    def _fail(self, error: psycopg.Error) -> NoReturn:
        state, text = error.sqlstate or "", _first_line(error)
        is_lost = self._connection is None or self._connection.broken or self._connection.closed
        if is_lost or state[:2] in ("08", "57", "") or state in _PASSING:
            self._drop()
            raise UnavailableError(
                self.server, f"went away or did not answer ({text}); what was sent may be stored"
            ) from error
        remedy = _REMEDIES.get(state)
        if state == "42501":
            raise ConfigurationError(f"{self.server}: {remedy} ({text})") from error
        if state[:2] == "23":
            remedy = "what was to be written contradicts what is stored"
        remedy = remedy or "see the cause for what went wrong"
        raise StorageError(f"{self.server}: {remedy} ({text})") from error

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        self._drop()

    # -- migrations --------------------------------------------------------------------------

    def _migrate(self) -> None:
        if self._applied() is not None and not self._pending():
            return
        with self.transaction() as cursor:
            # Processes that start at once wait here for the first one.
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            cursor.execute(
                sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self.schema))
            )
            cursor.execute(
                "CREATE TABLE IF NOT EXISTS migrations(number integer PRIMARY KEY, "
                "title text NOT NULL, checksum text NOT NULL, "
                "applied_at timestamptz NOT NULL DEFAULT now())"
            )
            cursor.execute("SELECT number FROM migrations")
            done = {row[0] for row in cursor.fetchall()}
            for number, path in _files():
                if number not in done:
                    text = path.read_text(encoding="utf-8")
                    cursor.execute(text.encode())
                    cursor.execute(
                        "INSERT INTO migrations VALUES(%s, %s, %s)",
                        (number, path.stem, _checksum(text)),
                    )

    def _applied(self) -> dict[int, str] | None:
        rows = self.query(
            "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = 'migrations'",
            (self.schema,),
        )
        if not rows:
            return None
        return dict(self.query("SELECT number, checksum FROM migrations"))

    def _pending(self) -> list[int]:
        applied = self._applied() or {}
        return [number for number, _ in _files() if number not in applied]

    def _check_version(self) -> None:
        applied = self._applied()
        if applied is None or self._pending():
            raise ConfigurationError(
                f"{self.server}: schema {self.schema} is not up to date: "
                "run `synchroscope prepare --config FILE`"
            )
        known = dict(_files())
        newer = sorted(set(applied) - set(known))
        if newer:
            raise ConfigurationError(
                f"{self.server}: schema {self.schema} was made by a newer release "
                f"(migration {newer[-1]}): use that release"
            )
        for number, checksum in applied.items():
            if checksum != _checksum(known[number].read_text(encoding="utf-8")):
                raise ConfigurationError(
                    f"{self.server}: migration {number} of schema {self.schema} is not the one of "
                    "this release: use the release that made it, or another schema"
                )


def _files() -> Iterable[tuple[int, Path]]:
    return [(int(path.name[:4]), path) for path in sorted(MIGRATIONS.glob("[0-9]*.sql"))]


def _checksum(text: str) -> str:
    return xxh3_64_hexdigest(text.encode())


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def escaped(text: str) -> str:
    r"""Return the text as a column can hold it: without NUL, and reversibly so.

    >>> escaped("user:1"), escaped("a\0b"), escaped("a\\0b")
    ('user:1', 'a\\0b', 'a\\\\0b')
    """
    return text.replace("\\", "\\\\").replace("\0", "\\0")


def unescaped(text: str) -> str:
    r"""Return what `escaped` was given.

    >>> unescaped(escaped("a\0b\\0c")) == "a\0b\\0c"
    True
    """
    if "\\" not in text:
        return text
    return re.sub(r"\\(.)", lambda found: "\0" if found[1] == "0" else found[1], text)
