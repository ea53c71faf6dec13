"""How the command ends: by an interrupt while a server hangs, and when nobody reads on."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import lmdb
import psycopg
import pytest
from click.testing import CliRunner

from service.cli import cli
from tests.compared_tables import fill, schema, uri
from tests.postgresql import execute, schema_name
from tests.servers import postgresql_dsn
from tests.silent_proxy import SilentProxy
from tests.waiting import until

__all__ = ["schema"]

COMMAND = [sys.executable, "-m", "service.cli", "compare"]
OPTIONS = ["--key", "id", "--settle", "600"]


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the command; it takes SIGINT, though who runs the tests may not, and ends with it."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def interrupted(process: subprocess.Popen[bytes], number: signal.Signals) -> bytes:
    began = time.monotonic()
    process.send_signal(number)
    told = process.communicate(timeout=30)[1]
    assert time.monotonic() - began < 15
    assert process.returncode == 130, told
    return told


def csv_file(folder: Path, rows: int = 1) -> str:
    path = folder / "rows.csv"
    path.write_text("id,v\n" + "".join(f"{n},{n}\n" for n in range(rows)), encoding="utf-8")
    return f"csv:{path}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_while_an_interface_hangs(
    number: signal.Signals, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}/rows?lookup=/one/{{id}}"
        with (
            running(uri, csv_file(tmp_path), *OPTIONS) as process,
            server.accept()[0] as connection,
        ):
            connection.recv(1)  # It has asked, and waits.
            told = interrupted(process, number)
    assert b"interrupted, so this is incomplete: 0 keys differ so far" in told


def test_an_interrupt_ends_it_while_postgresql_hangs(tmp_path: Path) -> None:
    with (
        schema_name() as schema,
        psycopg.connect(postgresql_dsn(), autocommit=True) as connection,
        SilentProxy(postgresql_dsn()) as proxy,
    ):
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        for table in "ab":
            rows = f"SELECT i AS id, '{table}' AS v FROM generate_series(1, 9) i"
            connection.execute(f"CREATE TABLE {schema}.{table} AS {rows}".encode())
        stores = [f"{proxy.uri}?table={schema}.{table}" for table in "ab"]
        query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s"

        def is_looking_again() -> bool:
            row = connection.execute(query, [f'%FROM "{schema}"."_" AS t WHERE%wanted%'])
            return row.fetchone() == (2,)

        with running(*stores, *OPTIONS) as process:
            until(is_looking_again, "a second look", pause_seconds=0.1)
            proxy.fall_silent()
            time.sleep(1.0)  # So that it waits for an answer; it asks more often than that.
            interrupted(process, signal.SIGINT)


def test_who_reads_no_further_is_told_apart_from_differences(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (id, v)")
    uri = f"sqlite://{path}?table=t"
    arguments = [csv_file(tmp_path, 20_000), uri, "--key", "id", "--settle", "0"]
    with running(*arguments) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.stdout.close()
        process.wait(timeout=30)
        assert process.stderr is not None
        told = process.stderr.read()
    assert json.loads(first)["kind"] == "missing"
    assert process.returncode == 141, told
    assert b"Traceback" not in told
    assert b"BrokenPipe" not in told


def lmdb_store(path: Path, rows: Mapping[str, str]) -> str:
    with closing(lmdb.open(str(path))) as environment, environment.begin(write=True) as put:
        for key, text in rows.items():
            put.put(key.encode(), text.encode())
    return f"lmdb://{path}"


@pytest.mark.parametrize("output", ["json", "text"])
def test_lone_surrogates_are_printed(output: str, tmp_path: Path) -> None:
    left = lmdb_store(tmp_path / "l", {"1": r'{"v": "\ud800", "\udfff": NaN}'})
    right = lmdb_store(tmp_path / "r", {"1": '{"v": "b"}'})
    arguments = [*COMMAND, left, right, "--key", "id", "--settle", "0", "--output", output]

    result = subprocess.run([*arguments, "--values"], capture_output=True, check=False)

    assert result.returncode == 1, result.stderr
    assert b"Traceback" not in result.stderr
    if output == "json":
        told: dict[str, Any] = json.loads(result.stdout)
        assert told["left"] == {"v": "\ud800", "\udfff": None}
    else:
        assert rb'v: "\ud800" | "b"' in result.stdout


def test_the_output_is_text_on_a_terminal_and_json_elsewhere(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("id,v\n0,1\n", encoding="utf-8")
    arguments = [csv_file(tmp_path), f"csv:{other}", "--key", "id", "--settle", "0"]
    near, far = pty.openpty()
    subprocess.run([*COMMAND, *arguments], stdout=far, stderr=subprocess.DEVNULL, check=False)
    os.close(far)
    seen = os.read(near, 1_000)
    os.close(near)

    piped = CliRunner().invoke(cli, ["compare", *arguments]).stdout
    text = CliRunner().invoke(cli, ["compare", *arguments, "--output", "text"]).stdout

    assert seen == b"~ changed   0  v\r\n"
    assert text == "~ changed   0  v\n"
    assert json.loads(piped) == {"key": "0", "kind": "changed", "columns": ["v"]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_prints_what_was_found_and_is_no_verdict(
    number: signal.Signals, schema: str
) -> None:
    fill(schema, "a", "bigint")
    fill(schema, "b", "bigint")
    execute(f"UPDATE {schema}.b SET v = 'x' WHERE id = 4")
    with running(uri(schema, "a"), uri(schema, "b"), *OPTIONS) as process:
        until(lambda: count_reads(schema, "%"), "a read", pause_seconds=0.1)
        process.send_signal(number)
        out, told = process.communicate(timeout=30)

    assert process.returncode == 130, told
    assert out == b""
    assert b"interrupted, so this is incomplete: 0 keys differ so far" in told
    assert b"Traceback" not in told


def test_an_interrupt_cancels_what_the_server_is_doing(schema: str) -> None:
    for table in "ab":
        execute(f"CREATE TABLE {schema}.{table}_rows (id int, v int)")
        execute(f"INSERT INTO {schema}.{table}_rows VALUES (1, 1)")
        execute(
            f"CREATE VIEW {schema}.{table} AS SELECT id, v FROM {schema}.{table}_rows "
            "WHERE pg_sleep(100) IS NOT NULL"
        )
    with running(uri(schema, "a"), uri(schema, "b"), "--key", "id") as process:
        until(lambda: count_reads(schema, "%"), "a read", pause_seconds=0.1)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)

    assert process.returncode == 130, told
    assert count_reads(schema, "active") == 0


def count_reads(schema: str, state: str) -> int:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND state LIKE %s "
        "AND application_name = 'synchroscope'"
    )
    with psycopg.connect(postgresql_dsn()) as connection:
        row = connection.execute(query, [f"%{schema}%", state]).fetchone()
    assert row is not None
    return int(row[0])
