"""A PostgreSQL server of a test's own, with passwords, that may be stopped and filled up."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

PASSWORD = "s3cret word/@%"
_ENCODED = "s3cret%20word%2F%40%25"


class PrivateServer:
    """A running server in a temporary folder; its superuser is ``admin``."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self._binaries = binaries
        password = folder / "password"
        password.write_text(PASSWORD)
        self._run("initdb", "-A", "scram-sha-256", "-U", "admin", f"--pwfile={password}", "-N")
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -c fsync=off"
        self._run("pg_ctl", "-w", "-o", options, "-l", str(self.folder / "log"), "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; ``immediate`` is as a crash, ``smart`` refuses new clients and waits."""
        wait = "-W" if mode == "smart" else "-w"
        self._run("pg_ctl", wait, "-m", mode, "stop")

    def dsn(self, user: str = "admin", database: str = "postgres", password: str = _ENCODED) -> str:
        """Return an address; the password percent-encoded."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def run(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the superuser, each by itself."""
        with psycopg.connect(self.dsn(database=database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def add_user(self, name: str, *options: str) -> str:
        """Create a user that may do nothing yet, and return its address."""
        password = PASSWORD.replace("'", "''")
        self.run(f"CREATE USER {name} {' '.join(options)} PASSWORD '{password}'")
        return self.dsn(name)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), "-D", str(self.folder / "data"), *arguments]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/", text=True
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def private_server() -> Iterator[PrivateServer]:
    """Start a server; stop it and remove all of it in the end."""
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="synchroscope-test-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        server = PrivateServer(folder, binaries)
        try:
            yield server
        finally:
            with suppress(AssertionError):  # A test may have stopped it.
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    if on_path:
        return Path(on_path).parent
    reason = "initdb is missing: apt-get install postgresql"
    if os.environ.get("SYNCHROSCOPE_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
