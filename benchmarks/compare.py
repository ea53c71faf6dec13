"""`make bench-compare`: `synchroscope compare` beside reladiff on the same two PostgreSQL tables.

Both are run as their users run them, one after the other, on tables at rest in two databases: 10^6
rows of about 200 bytes with integer or text keys, with 0, 10 and 1,000 rows that differ (40 %
changed, 30 % missing, 30 % extra). Both must name exactly these keys. Server CPU is what the
postmaster's children used, bytes are those of the loopback device. Starts a PostgreSQL of its own
and stops it again. With ``--one-database`` both tables are in one, where reladiff joins them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from msgspec import Struct

from benchmarks.local_servers import Servers
from benchmarks.run import FOLDER, circumstances

DEFAULT_OUTPUT = FOLDER / "results" / "compare.json"
DIFFERENCES = (0, 10, 1_000)
KEY_TYPES = {"integer": "bigint", "text": "text"}
RELADIFF = Path(sys.prefix) / "reladiff" / "bin" / "reladiff"
VALUE = "||".join(f"md5((i + {part})::text)" for part in range(5))


class Cost(Struct, frozen=True):
    """What one run took."""

    wall_seconds: float
    client_seconds: float
    server_seconds: float
    megabytes: float


class Answer(Struct, frozen=True):
    """What one run said: sign and key."""

    cost: Cost
    keys: frozenset[tuple[str, str]]


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """Start PostgreSQL; return its address and the postmaster's process."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="synchroscope-bench-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user.
        own = Servers(Path(folder) / "servers")
        try:
            own.run("up", "postgres")
            data = Path(folder) / "servers" / "postgres" / "data"
            postmaster = int((data / "postmaster.pid").read_text().splitlines()[0])
            yield own.addresses["SYNCHROSCOPE_POSTGRESQL"], postmaster
        finally:
            own.run("down", "--purge")


def fill(left: str, right: str, rows: int) -> dict[tuple[str, int], frozenset[tuple[str, str]]]:
    """Make the tables; return (key type, differences) -> what must be found."""
    must: dict[tuple[str, int], frozenset[tuple[str, str]]] = {}
    for address in dict.fromkeys((left, right)):
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET autovacuum = off")
            connection.execute("SELECT pg_reload_conf()")
            for name, declared in KEY_TYPES.items():
                key = "i" if declared == "bigint" else "'user-' || md5(i::text)"
                connection.execute(
                    f"CREATE TABLE {name}_a AS SELECT ({key})::{declared} AS id, {VALUE} AS val, "
                    "(i % 7)::int AS version, '2026-01-01'::timestamptz + i * interval '1 s' AS "
                    f"updated_at FROM generate_series(2, {2 * rows}, 2) i".encode()
                )
                connection.execute(f"ALTER TABLE {name}_a ADD PRIMARY KEY (id)".encode())
                if address == right:
                    for count in DIFFERENCES:
                        must[name, count] = spoil(connection, name, count)
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")
    return must


def database(address: str, name: str) -> str:
    """Create a database; return its address."""
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return urlsplit(address)._replace(path=f"/{name}").geturl()


def spoil(connection: psycopg.Connection[Any], name: str, count: int) -> frozenset[tuple[str, str]]:
    """Copy a table and make so many rows of the copy differ."""
    place, copy = f"{name}_a", f"{name}_{count}"

    def pick(seed: int, share: float) -> str:
        return (
            f"(SELECT id FROM {place} ORDER BY md5({seed} || id::text) "
            f"LIMIT {round(count * share)} OFFSET {count * seed})"
        )

    def listed(query: str) -> list[str]:
        return [str(row[0]) for row in connection.execute(query.encode())]

    connection.execute(f"CREATE TABLE {copy} (LIKE {place} INCLUDING ALL)".encode())
    connection.execute(f"INSERT INTO {copy} SELECT * FROM {place}".encode())
    changed = listed(
        f"UPDATE {copy} SET val = overlay(val placing 'X' from 5) WHERE id IN {pick(1, 0.4)} "
        "RETURNING id"
    )
    missing = listed(f"DELETE FROM {copy} WHERE id IN {pick(2, 0.3)} RETURNING id")
    more = "id + 1" if name == "integer" else "id || 'x'"
    extra = listed(
        f"INSERT INTO {copy} SELECT {more}, val, version, updated_at FROM {place} "
        f"WHERE id IN {pick(3, 0.3)} RETURNING id"
    )
    return frozenset(
        [("~", key) for key in changed]
        + [("-", key) for key in missing]
        + [("+", key) for key in extra]
    )


def loopback_bytes() -> int:
    """Return what the loopback device has received."""
    for line in Path("/proc/net/dev").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            return int(rest.split()[0])
    return 0


def children_seconds(process: int) -> float:
    """Return the CPU time of a process's children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def measured(command: Sequence[str], postmaster: int) -> tuple[Cost, str]:
    """Run a command; return what it took and what it printed."""
    server_before, bytes_before = children_seconds(postmaster), loopback_bytes()
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE)
        assert process.stderr is not None
        told = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        printed = out.read().decode()
    if process.returncode not in (0, 1):
        raise RuntimeError(f"{command[0]}: {told.decode()}")
    time.sleep(0.3)  # Until the server has buried its children.
    return (
        Cost(
            wall,
            usage.ru_utime + usage.ru_stime,
            children_seconds(postmaster) - server_before,
            (loopback_bytes() - bytes_before) / 1e6,
        ),
        printed,
    )


def ours(postmaster: int, *tables: tuple[str, str]) -> Answer:
    """Run `synchroscope compare` on two tables: address and name of each."""
    program = str(Path(sys.executable).with_name("synchroscope"))
    stores = [f"{address}?table={table}" for address, table in tables]
    options = ["--key", "id", "--output", "json", "--settle", "0"]
    cost, printed = measured([program, "compare", *stores, *options], postmaster)
    signs = {"changed": "~", "missing": "-", "extra": "+"}
    lines = [json.loads(line) for line in printed.splitlines()]
    return Answer(cost, frozenset((signs[line["kind"]], line["key"]) for line in lines))


def theirs(postmaster: int, *tables: tuple[str, str]) -> Answer:
    """Run reladiff likewise."""
    columns = [part for name in ("val", "version", "updated_at") for part in ("-c", name)]
    command = [str(RELADIFF), *chain(*tables), "-k", "id", *columns, "--json"]
    cost, printed = measured(command, postmaster)
    seen: dict[str, str] = {}
    # It breaks its lines at 80 characters, within strings too.
    rest = printed.replace("\n", "")
    while rest:
        (sign, (key, *_)), end = json.JSONDecoder().raw_decode(rest)
        seen[key] = seen.get(key, "") + sign
        rest = rest[end:]
    return Answer(cost, frozenset(("~" if len(s) == 2 else s, key) for key, s in seen.items()))


def middle(costs: Sequence[Cost]) -> Cost:
    """Return the medians."""
    return Cost(
        *(
            statistics.median(getattr(cost, name) for cost in costs)
            for name in Cost.__struct_fields__
        )
    )


def line(name: str, cost: Cost) -> str:
    """Return a row of the table."""
    return (
        f"| {name} | {cost.wall_seconds:.2f} | {cost.client_seconds:.2f} | "
        f"{cost.server_seconds:.2f} | {cost.megabytes:.2f} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write JSON; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make bench-compare ARGS=…")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="where the JSON goes")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of each table")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is run")
    parser.add_argument(
        "--one-database", action="store_true", help="both tables are in the same database"
    )
    options = parser.parse_args(arguments)
    found: list[dict[str, Any]] = []
    wrong = 0
    with server() as (address, postmaster):
        left, right = address, address if options.one_database else database(address, "other")
        must = fill(left, right, options.rows)
        print("| tables and tool | wall s | client CPU s | server CPU s | moved MB |")
        print("| --- | --- | --- | --- | --- |")
        for (name, count), keys in must.items():
            sides: dict[str, list[Cost]] = {"synchroscope": [], "reladiff": []}
            for number in range(options.repeats + 1):
                for tool, run in (("synchroscope", ours), ("reladiff", theirs)):
                    answer = run(postmaster, (left, f"{name}_a"), (right, f"{name}_{count}"))
                    if answer.keys != keys:
                        wrong += 1
                        print(f"{tool} named {len(answer.keys)} of {len(keys)}", file=sys.stderr)
                    if number:  # The first one warms the cache.
                        sides[tool].append(answer.cost)
            medians = {tool: middle(costs) for tool, costs in sides.items()}
            for tool, cost in medians.items():
                print(line(f"{name} keys, {count:,} differ: {tool}", cost), flush=True)
            ratio = medians["reladiff"].wall_seconds / medians["synchroscope"].wall_seconds
            print(f"| times faster | {ratio:.1f} | | | |", flush=True)
            found.append(
                {
                    "keys": name,
                    "differ": count,
                    "wall_ratio": ratio,
                    **{tool: [_plain(cost) for cost in costs] for tool, costs in sides.items()},
                }
            )
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(
        json.dumps({"circumstances": circumstances(), "rows": found}, indent=1) + "\n",
        encoding="utf-8",
    )
    return 1 if wrong else 0


def _plain(cost: Cost) -> dict[str, float]:
    return {name: round(getattr(cost, name), 4) for name in Cost.__struct_fields__}


if __name__ == "__main__":
    sys.exit(main())
