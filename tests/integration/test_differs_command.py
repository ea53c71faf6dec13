"""`differs` over Kafka."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.log_kafka import KafkaLog
from service.cli import cli
from synchroscope.ports import EVENTS, FINDINGS, NewRecord
from tests.builders import event
from tests.topics import KAFKA_CLIENTS, new_topics
from validator.finding import Finding, Position, Since, encode_finding

EVENTS_TOTAL = 6_000
PARTITIONS = 2


def missed(partition: int, offset: int, user: str) -> Finding:
    return Finding(
        id=f"F-{partition}-{offset}",
        state="open",
        kind="missed",
        replica="scorer@1",
        context_type="financial",
        subjects=[f"user:{user}"],
        first_bad_position=Position(partition, offset),
        since=Since(partition, offset, offset),
        detected_at="2026-03-01T00:00:00.000000Z",
        resolved_at=None,
        evidence={"checked_position": offset + 1},
        partition=partition,
        keys=[("financial", f"user:{user}")],
    )


@pytest.mark.parametrize("client", KAFKA_CLIENTS)
def test_a_producer_is_named_over_kafka(client: str, tmp_path: Path) -> None:
    with ExitStack() as to_close:
        settings = new_topics(client, to_close, partitions=PARTITIONS)
        log = to_close.enter_context(closing(KafkaLog(settings)))
        written: dict[int, list[NewRecord]] = {number: [] for number in range(PARTITIONS)}
        struck = []
        for number in range(EVENTS_TOTAL):
            partition, user, till = number % PARTITIONS, str(number % 70), number // 3 % 7
            made = event(number, {"limit": number}, number=number, user=user)
            made["source"] = {"modelId": f"till-{till}", "instanceId": "1"}
            if till == 5 and number % 200 < 3:
                struck.append(missed(partition, len(written[partition]), user))
            records = written[partition]
            records.append(NewRecord(EVENTS, partition, b"", json.dumps(made).encode()))
        log.append([record for records in written.values() for record in records], time.time())
        log.append(
            [NewRecord(FINDINGS, 0, f.id.encode(), encode_finding(f)) for f in struck], time.time()
        )
        names = ("bootstrap_servers", "client", "topic_prefix", "name", "partitions")
        document = {
            "log": {"kafka": {name: getattr(settings, name) for name in names}},
            "event_store": {"postgresql": {"dsn": "postgresql://sync@127.0.0.1/nowhere"}},
            "views": {"scorer": {"fields": {"financial": "*"}}},
            "replicas": [{"name": f"scorer@{number}", "memory": {}} for number in (1, 2)],
        }
        path = tmp_path / "synchroscope.yaml"
        path.write_text(json.dumps(document))

        told = CliRunner().invoke(cli, ["differs", "--config", str(path), "--output", "json"])

    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert (found["findings"], found["events"]) == (len(struck), EVENTS_TOTAL)
    (population,) = found["populations"]
    assert (population["divergent"], population["not_found"]) == (len(struck), 0)
    first = population["ranked"][0]
    assert {"dimension": "producer", "value": "till-5"} in first["conditions"]
