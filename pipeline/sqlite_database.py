"""One SQLite file that several stores share, and what its errors mean.

The log and the event store of embedded mode live in one file and one connection. The connection
belongs to the thread that opened it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

from synchroscope.errors import StorageError

Synchronous = Literal["FULL", "NORMAL", "OFF"]

BUSY_TIMEOUT_SECONDS = 5.0
CACHE_KIBIBYTES = 65_536
#: A page that many commits change is copied into the file once for all of them.
PAGES_BETWEEN_CHECKPOINTS = 8_192
JOURNAL_LIMIT_BYTES = 64 * 1024 * 1024

_REMEDIES = {
    "SQLITE_FULL": "the disk is full: free some space and start again; nothing was half written",
    "SQLITE_BUSY": "another process is writing to it: stop that process",
    "SQLITE_LOCKED": "another process is writing to it: stop that process",
    "SQLITE_READONLY": "it cannot be written: check the owner and permissions of file and folder",
    "SQLITE_PERM": "it cannot be written: check the owner and permissions of file and folder",
    "SQLITE_CANTOPEN": "it cannot be opened: check that its folder exists and can be written",
    "SQLITE_NOTADB": "it is not a SQLite database: name another file, or move this one away",
    "SQLITE_CORRUPT": "the file is damaged: restore it from a backup, or move it away",
    "SQLITE_IOERR": "the disk failed: look into the system's log and check the disk",
    "SQLITE_CONSTRAINT": "what was to be written contradicts what is stored",
}


class SqliteDatabase:
    """One connection to one file, in write-ahead mode, with explicit transactions.

    Parameters
    ----------
    path: The file; ``":memory:"`` is a database that dies with this object.
    synchronous: ``"FULL"`` survives a power cut; ``"NORMAL"`` may lose the last transactions then,
        is several times faster for small transactions, and survives ``kill -9`` just the same;
        ``"OFF"`` may be corrupted by a power cut.
    exclusive: Be the file's only writer; a second one is refused. The lock is on ``PATH.lock`` and
        the kernel releases it when the process dies. False opens an existing file for reading only,
        beside the writer.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        synchronous: Synchronous = "FULL",
        exclusive: bool = True,
    ) -> None:
        self.path = str(path)
        self._lock: int | None = None
        self._is_file = self.path != ":memory:"
        if self._is_file and not exclusive and not Path(self.path).is_file():
            raise StorageError(f"{self.path} does not exist: start its writer first")
        if self._is_file and exclusive:
            self._lock = self._take_lock()
        try:
            self._connection = sqlite3.connect(
                self.path, isolation_level=None, timeout=BUSY_TIMEOUT_SECONDS
            )
        except sqlite3.Error as error:
            self._release_lock()
            self._fail(error)
        try:
            self._configure(synchronous, exclusive)
        except BaseException:
            self.close()
            raise

    def _configure(self, synchronous: Synchronous, exclusive: bool) -> None:
        if exclusive:
            self.execute("PRAGMA journal_mode = WAL")
            self.execute(f"PRAGMA synchronous = {synchronous}")
            self.execute(f"PRAGMA wal_autocheckpoint = {PAGES_BETWEEN_CHECKPOINTS}")
            self.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT_BYTES}")
        else:
            self.execute("PRAGMA query_only = ON")
        self.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
        self.execute("SELECT count(*) FROM sqlite_master")

    def _take_lock(self) -> int:
        name = f"{self.path}.lock"
        try:
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(
                f"{name} cannot be created ({error.strerror}): "
                "check that the folder exists and can be written"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise StorageError(
                f"{self.path} is in use by another writer: stop it, use another data folder, "
                "or open the file for reading only"
            ) from error
        return lock

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block as one transaction: all of it is stored when the block ends, or nothing.

        Transactions do not nest; a second one inside raises `StorageError`.
        """
        if self._connection.in_transaction:
            raise StorageError(f"{self.path}: a transaction is open already; they do not nest")
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.rollback()
            raise

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run one statement and return its rows."""
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            self._fail(error)

    def execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row; only inside a transaction is that one step."""
        try:
            self._connection.executemany(statement, rows)
        except sqlite3.Error as error:
            self._fail(error)

    def ensure_schema(self, component: str, version: int, statements: Sequence[str]) -> bool:
        """Create a component's tables unless they exist; say whether they were created.

        Raises `StorageError` when the file was written with another version of them.
        """
        found = self._schema_version(component)
        if found is None:
            with self.transaction():
                self.execute(
                    "CREATE TABLE IF NOT EXISTS schema_versions"
                    "(component TEXT PRIMARY KEY, version INTEGER NOT NULL)"
                )
                for statement in statements:
                    self.execute(statement)
                self.execute("INSERT INTO schema_versions VALUES(?, ?)", (component, version))
            return True
        if found != version:
            age = "a newer" if found > version else "an older"
            raise StorageError(
                f"{self.path} holds {component} tables of version {found}, of {age} release; "
                f"this one reads version {version}: use that release, or another data folder"
            )
        return False

    def _schema_version(self, component: str) -> int | None:
        if not self.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_versions'"):
            return None
        rows = self.execute("SELECT version FROM schema_versions WHERE component = ?", (component,))
        return rows[0][0] if rows else None

    def close(self) -> None:
        """Close the connection and let another writer in; closing twice is harmless."""
        self._connection.close()
        self._release_lock()

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        # Codes are refined by a suffix: SQLITE_IOERR_WRITE, SQLITE_CONSTRAINT_UNIQUE, …
        code = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
        remedy = _REMEDIES.get(code, "see the cause for what went wrong")
        raise StorageError(f"{self.path}: {remedy} ({error})") from error
