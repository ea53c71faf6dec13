"""One connection to PostgreSQL that several stores share, its migrations, and what its errors mean.

Everything lives in one schema. The connection belongs to one thread. When it breaks, whoever used
it gets `UnavailableError`, and the next use opens a new one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import psycopg
from psycopg import sql
from xxhash import xxh3_64_hexdigest

from pipeline.postgresql_tables import WHAT_IS_THERE, Gap, gap_of, statements_for
from synchroscope.errors import ConfigurationError, StorageError, UnavailableError

logger = logging.getLogger("synchroscope.postgresql")

CONNECT_SECONDS = 3
STATEMENT_SECONDS = 30
SILENCE_SECONDS = 10
"""Without any answer to what was sent for so long, the connection counts as lost."""
MIGRATIONS = Path(__file__).resolve().parent / "migrations"

_SCHEMA = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")
_MIGRATION_LOCK = 7_201_963_104
_SETTINGS = {
    "default_transaction_isolation": r"read\ committed",
    "statement_timeout": STATEMENT_SECONDS * 1000,
    "idle_in_transaction_session_timeout": STATEMENT_SECONDS * 1000,
    # Every statement here goes by an index. A plan that was made while a table was small must not
    # read all of it when it has grown.
    "enable_seqscan": "off",
    "jit": "off",
}
_DSN_HINT = (
    "write postgresql://user:password@host:port/database, with / @ % in the password as %2F %40 %25"
)
_CONNECTION_REFUSALS = (
    ("password authentication failed", "check the user and the password in the DSN"),
    ("no password supplied", "give the password in the DSN, as ${NAME} or ${file:PATH}"),
    ("no pg_hba.conf entry", "let this host and user in (pg_hba.conf), or use sslmode=require"),
    ("permission denied", "grant CONNECT on the database to this user"),
    ("is not permitted to log in", "grant LOGIN to this user, or name another one in the DSN"),
    ("not currently accepting connections", "allow connections to it, or name another database"),
    ("does not support SSL", "turn TLS on at the server, or lower sslmode in the DSN"),
    ("certificate", "check sslmode and the certificates that the DSN names"),
    ("does not exist", "create it, or name another one in the DSN"),
    ("invalid", "check that part of the DSN"),
)
_REMEDIES = {
    "53100": "the disk is full: free some space; nothing was half written",
    "53200": "the server is out of memory: give it more, or lower its settings",
    "25006": "the database is read-only: name the primary, or lift default_transaction_read_only",
    "42501": "the user may not do this: grant it CREATE on the database and USAGE on the schema",
    "3F000": "the tables are gone: run `synchroscope prepare --config FILE`",
    "42P01": "the tables are gone: run `synchroscope prepare --config FILE`",
    "42883": "the tables are gone: run `synchroscope prepare --config FILE`",
    "42703": "a column is gone: `synchroscope prepare --config FILE` says which",
}
_PASSING = {"53300", "53400", "55P03", "40001", "40P01", "25P03"}


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
        check_schema(schema)
        self.server = server_of(dsn)
        self.schema = schema
        self._migrations = _migrations()
        self._dsn = dsn
        self._options = str(psycopg.conninfo.conninfo_to_dict(dsn).get("options") or "")
        self._options += "".join(
            f" -c {setting}={value}"
            for setting, value in {"search_path": schema, **_SETTINGS}.items()
        )
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
                options=self._options,
            )
        except psycopg.Error as error:
            self._refused(error)
        return self._connection

    def _refused(self, error: psycopg.Error) -> NoReturn:
        text = _told(error)
        for sign, remedy in _CONNECTION_REFUSALS:
            if sign in text:
                raise ConfigurationError(f"{self.server} refuses: {text}: {remedy}") from None
        raise UnavailableError(
            self.server, f"cannot be reached ({text}): check the address, and that it runs"
        ) from None

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor[Any]]:
        """Run the block as one transaction on a cursor: all of it is stored, or nothing.

        Transactions do not nest; a second one inside raises `StorageError`.
        """
        connection = self._connect()
        if connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
            raise StorageError(f"{self.server}: a transaction is open already; they do not nest")
        try:
            with connection.transaction(), connection.cursor() as cursor:
                yield cursor
        except psycopg.Error as error:
            self._fail(error)

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run one statement by itself, in one round trip, and return its rows."""
        connection = self._connect()
        try:
            cursor = connection.execute(statement.encode(), parameters or None, binary=True)
            return cursor.fetchall()
        except psycopg.Error as error:
            self._fail(error)

    def _fail(self, error: psycopg.Error) -> NoReturn:
        state, text = error.sqlstate or "", _told(error)
        is_lost = self._connection is None or self._connection.closed
        if is_lost or state[:2] in ("08", "57") or state in _PASSING:
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
        while not self._is_current():
            # Each in a transaction of its own. Processes that start at once wait for each other.
            with self.transaction() as cursor:
                cursor.execute("SET LOCAL statement_timeout = 0")
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
                self._make_room(cursor)
                cursor.execute("SELECT number FROM migrations")
                done = {row[0] for row in cursor.fetchall()}
                waiting = [number for number in self._migrations if number not in done]
                if waiting:
                    number = waiting[0]
                    cursor.execute(self._migrations[number].read_bytes())
                    cursor.execute(
                        "INSERT INTO migrations VALUES(%s, %s, %s)",
                        (
                            number,
                            self._migrations[number].stem,
                            _checksum(self._migrations[number]),
                        ),
                    )

        if self._gap().is_closable:
            self._close_gap()

    def _make_room(self, cursor: psycopg.Cursor[Any]) -> None:
        cursor.execute("SELECT to_regnamespace(%s)", (self.schema,))
        # Only where it is absent: `IF NOT EXISTS` asks for the right to create one all the same.
        if cursor.fetchall() == [(None,)]:
            name = sql.Identifier(self.schema)
            cursor.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        cursor.execute("SELECT to_regclass(%s)", (f"{self.schema}.migrations",))
        if cursor.fetchall() == [(None,)]:
            cursor.execute(
                "CREATE TABLE migrations(number integer PRIMARY KEY, title text NOT NULL, "
                "checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
            )

    def _close_gap(self) -> None:
        """Make anew what may be made anew, unless another process did meanwhile."""
        with self.transaction() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            cursor.execute(WHAT_IS_THERE, (self.schema, self.schema))
            gap = gap_of(cursor.fetchall())
            texts = [path.read_text() for _, path in sorted(self._migrations.items())]
            for statement in statements_for(gap, texts):
                cursor.execute(statement.encode())
        if gap.is_closable:
            logger.warning("%s, schema %s: %s: made anew", self.server, self.schema, gap.told)

    def _gap(self) -> Gap:
        return gap_of(self.query(WHAT_IS_THERE, (self.schema, self.schema)))

    def _is_current(self) -> bool:
        """Say whether all migrations are applied; raise if they are another release's."""
        applied: dict[int, str] = {}
        if self.query("SELECT to_regclass(%s)::text", (f"{self.schema}.migrations",))[0][0]:
            applied = dict(self.query("SELECT number, checksum FROM migrations"))
        newer = sorted(set(applied) - set(self._migrations))
        if newer:
            raise ConfigurationError(
                f"{self.server}: schema {self.schema} was made by a newer release "
                f"(migration {newer[-1]}): use that release"
            )
        for number, checksum in sorted(applied.items()):
            if checksum != _checksum(self._migrations[number]):
                raise ConfigurationError(
                    f"{self.server}: migration {number} of schema {self.schema} is not the one of "
                    "this release: use the release that made it, or another schema"
                )
        return len(applied) == len(self._migrations)

    def _check_version(self) -> None:
        if not self._is_current():
            raise ConfigurationError(
                f"{self.server}: schema {self.schema} is not up to date: "
                "run `synchroscope prepare --config FILE`"
            )
        gap = self._gap()
        if gap.told:
            remedy = "run `synchroscope prepare --config FILE`" if gap.is_closable else gap.remedy
            raise ConfigurationError(f"{self.server}, schema {self.schema}: {gap.told}: {remedy}")


def check_schema(name: str) -> None:
    """Raise `ConfigurationError` unless a schema can have that name."""
    if not _SCHEMA.fullmatch(name) or name.startswith("pg_"):
        raise ConfigurationError(
            f"schema {name!r}: up to 63 small letters, digits and underscores are allowed, "
            "and no pg_ at the beginning"
        )


def server_of(dsn: str) -> str:
    """Return what messages call the server; raise `ConfigurationError` if the DSN is none."""
    try:
        parts = psycopg.conninfo.conninfo_to_dict(dsn)
    except (psycopg.Error, UnicodeError) as error:
        # The rest may show a piece of the password.
        reason = str(error).strip().split('"')[0].strip()
        if isinstance(error, UnicodeError):
            reason = "not UTF-8"
        raise ConfigurationError(
            f"the PostgreSQL DSN cannot be read ({reason}): {_DSN_HINT}"
        ) from None
    host, port, name = (str(parts.get(part) or "") for part in ("host", "port", "dbname"))
    if "@" in host + name or not re.fullmatch("[0-9,]*", port):
        # A part of the password, most likely: it must not get into any message.
        raise ConfigurationError(f"the PostgreSQL DSN cannot be read: {_DSN_HINT}")
    return f"postgresql {host or 'localhost'}:{port or 5432}/{name}"


def _migrations() -> dict[int, Path]:
    return {int(path.name[:4]): path for path in sorted(MIGRATIONS.glob("[0-9]*.sql"))}


def _checksum(path: Path) -> str:
    return xxh3_64_hexdigest(path.read_bytes())


def _told(error: psycopg.Error) -> str:
    """Return what the server says, in one line and without the statement."""
    told = [error.diag.message_primary or str(error) or type(error).__name__]
    if error.diag.message_detail:
        told.append(error.diag.message_detail)
    return " ".join(" ".join(told).split())


def escaped(text: str) -> str:
    r"""Return the text as a column can hold it: without NUL, reversibly and in the same order.

    >>> escaped("user:1"), escaped("a\0b")
    ('user:1', 'a\x01\x01b')
    """
    return text.replace("\1", "\1\2").replace("\0", "\1\1")


def unescaped(text: str) -> str:
    r"""Return what `escaped` was given.

    >>> unescaped(escaped("a\0\1b\2"))
    'a\x00\x01b\x02'
    """
    return text.replace("\1\1", "\0").replace("\1\2", "\1") if "\1" in text else text


def columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    """Return the rows' columns, as ``unnest`` takes them.

    >>> columns([(1, "a"), (2, "b")], 2), columns([], 2)
    ([[1, 2], ['a', 'b']], [[], []])
    """
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(count)]
