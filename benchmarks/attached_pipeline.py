"""The pipeline of `examples/attached` as processes, with `synchroscope attach` watching it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import redis

from pipeline.kafka_client import NewTopic, open_client
from pipeline.kafka_settings import KafkaSettings
from synchroscope.ports import NewRecord

ROOT = Path(__file__).resolve().parents[1]
YAML = ROOT / "examples" / "attached" / "attached.yaml"
PARTITIONS = 4
POLL_SECONDS = 0.1
START_SECONDS = 30.0
STARTS = 4


class Attached:
    """One `synchroscope attach --output json`, and what it has told so far."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.lines: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(json.loads(line))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.errors.append(line.decode(errors="replace").rstrip())

    @property
    def url(self) -> str:
        """Where it serves; empty until it does."""
        told = [line for line in list(self.errors) if line.startswith("serving ")]
        return told[0].removeprefix("serving ") if told else ""

    def findings(self) -> dict[str, dict[str, Any]]:
        """Return the newest state of each finding that it told."""
        return {line["finding"]["id"]: line["finding"] for line in self.lines if "finding" in line}

    def memory_bytes(self) -> int:
        """Return what it holds of the machine's memory, without the files that it maps."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")

    def status(self) -> dict[str, Any]:
        """Return what it reports of itself; empty while it does not answer."""
        try:
            answer = httpx.get(f"{self.url}/api/status", timeout=5.0)
        except httpx.HTTPError:
            return {}
        found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return found

    def verdict(self, store: str) -> tuple[str, str]:
        """Return the verdict on a store, and the reason."""
        found = self.status().get("stores", {}).get(store, {})
        return found.get("verdict", ""), found.get("reason", "")

    def kill(self) -> None:
        """Kill it without warning; once it has ended, nothing is left to do."""
        self._process.kill()
        self._wait(10)

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._wait(30)

    def end(self, seconds: float) -> int:
        """Wait for its end; return its exit code."""
        return self._wait(seconds)

    def _wait(self, seconds: float) -> int:
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait(seconds)
        for thread in self._threads:
            thread.join(seconds)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.stdout.close()
        self._process.stderr.close()
        return code


class Pipeline:
    """A topic, two stores, their consumers and a producer, all of one run's own."""

    def __init__(self, kafka: str, postgresql: str, redis_url: str, folder: Path) -> None:
        self.mark = uuid4().hex[:10]
        self.topic, self.prefix = f"user-context-{self.mark}", f"ctx-{self.mark}:"
        self.table = f"user_context_{self.mark}"
        self.folder = folder
        self.kafka, self.postgresql, self.redis_url = kafka, postgresql, redis_url
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._attached: list[Attached] = []
        self._settings = KafkaSettings(bootstrap_servers=kafka)
        self.environment = {
            **os.environ,
            "KAFKA": kafka,
            "TOPIC": self.topic,
            "REDIS": redis_url,
            "POSTGRESQL": postgresql,
            "PREFIX": self.prefix,
            "TABLE": self.table,
            "PYTHONWARNINGS": "ignore",
        }

    def start(self) -> None:
        """Create the topic and start the consumers."""
        with closing(open_client(self._settings)) as client:
            client.create_topics([NewTopic(self.topic, PARTITIONS, 1, {})])
            wait_for(lambda: self.topic in client.partition_counts(), 20, "the topic")
            event = {"userId": "probe", "updates": {"note": {"current": "is anybody there?"}}}
            probe = NewRecord(self.topic, 0, b"probe", json.dumps(event).encode())
            with closing(client.writer()) as writer:
                writer.send([probe], int(time.time() * 1000))
        for name, has_probe in (("redis", self._redis_has), ("postgresql", self._postgresql_has)):
            self._start_consumer(name, has_probe)

    def _start_consumer(self, name: str, has_probe: Callable[[], bool]) -> None:
        url = {"redis": self.redis_url, "postgresql": self.postgresql}[name]
        for number in range(STARTS):
            # Another group each time: the last one waits for its dead member.
            group = self.environment[f"{name.upper()}_GROUP"] = f"{name}-{self.mark}-{number}"
            more = ["--url", url, "--group", group, "--prefix", self.prefix, "--table", self.table]
            process = self._start(name, "consumers", name, *more)
            try:
                wait_for(has_probe, START_SECONDS, f"the {name} consumer")
            except TimeoutError:
                # On a busy machine kafka-python sometimes never finds its group's coordinator.
                process.kill()
                process.wait(10)
            else:
                return
        raise TimeoutError(f"the {name} consumer does not begin to read")

    def _redis_has(self) -> bool:
        with closing(redis.Redis.from_url(self.redis_url)) as client:
            return bool(client.exists(f"{self.prefix}probe"))

    def _postgresql_has(self) -> bool:
        with psycopg.connect(self.postgresql) as connection:
            found = connection.execute("SELECT to_regclass(%s)", [self.table]).fetchone()
            if found is None or found[0] is None:
                return False
            query = f"SELECT 1 FROM {self.table} WHERE user_id = 'probe'".encode()
            return connection.execute(query).fetchone() is not None

    def produce(self, rate: float, users: int, seconds: float, seed: int) -> None:
        """Start a producer."""
        options = {"rate": rate, "users": users, "seconds": seconds, "seed": seed}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        self._start("producer", "producer", *arguments)

    def inject(self, journal: Path, *arguments: str, seconds: float = 90.0) -> list[dict[str, Any]]:
        """Inject faults and return what the journal says."""
        common = ["--redis", self.redis_url, "--postgresql", self.postgresql]
        common += ["--prefix", self.prefix, "--table", self.table, "--journal", str(journal)]
        process = self._start("inject", "inject", *common, *arguments)
        if process.wait(seconds) != 0:
            raise RuntimeError("the injector failed")
        return [json.loads(line) for line in journal.read_text().splitlines()]

    def _start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"examples.attached.{module}", *arguments]
        command += ["--servers", self.kafka, "--topic", self.topic]
        process = subprocess.Popen(
            command, env=self.environment, cwd=ROOT, stdout=subprocess.DEVNULL
        )
        self._processes[name] = process
        return process

    def attach(self, data: str = "data", *arguments: str, file: Path = YAML) -> Attached:
        """Start `synchroscope attach` on it."""
        command = [sys.executable, "-m", "service.cli", "attach", str(file)]
        command += ["--output", "json", "--data-dir", str(self.folder / data)]
        command += ["--http-port", "0", *arguments]
        self._attached.append(Attached(command, self.environment))
        return self._attached[-1]

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a process by its name."""
        self._processes[name].send_signal(number)

    def is_running(self, name: str) -> bool:
        """Say whether a process has not ended."""
        return self._processes[name].poll() is None

    def stop(self) -> None:
        """End all processes, and remove what they made."""
        for attached in self._attached:
            attached.kill()
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait(10)
        with psycopg.connect(self.postgresql, autocommit=True) as connection:
            connection.execute(f"DROP TABLE IF EXISTS {self.table}".encode())
        with closing(redis.Redis.from_url(self.redis_url)) as client:
            keys = list(client.scan_iter(f"{self.prefix}*", count=1_000))
            for start in range(0, len(keys), 1_000):
                client.delete(*keys[start : start + 1_000])
        with closing(open_client(self._settings)) as kafka:
            kafka.delete_topics([self.topic])


@contextmanager
def pipeline(kafka: str, postgresql: str, redis_url: str, folder: Path) -> Iterator[Pipeline]:
    """Run the pipeline, and clean up after it."""
    world = Pipeline(kafka, postgresql, redis_url, folder)
    try:
        world.start()
        yield world
    finally:
        world.stop()


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return the first true answer; raise if there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(POLL_SECONDS)
