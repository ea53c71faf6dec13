"""Produces changes of users' context to a Kafka topic; knows nothing of Synchroscope.

python -m examples.attached.producer --rate 500 --seconds 60
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import random
import time
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from kafka.errors import TopicAlreadyExistsError

TOPIC = "user-context"
RISKS = ("low", "moderate", "high")


def change(rng: random.Random, user: str) -> dict[str, Any]:
    """Return an event that changes one to five of a user's fields."""
    fields = {
        "risk": rng.choice(RISKS),
        "balance": round(rng.uniform(0, 10_000), 2),
        "visits": rng.randrange(1_000_000),
        "note": f"note-{rng.getrandbits(64):016x}",
        "seen_at": _moment(rng),
    }
    names = rng.sample(sorted(fields), rng.randint(1, len(fields)))
    return {"userId": user, "updates": {name: {"current": fields[name]} for name in names}}


def _moment(rng: random.Random) -> str:
    """Return a moment as the producer's local time, to the millisecond."""
    zone = dt.timezone(dt.timedelta(hours=1))
    seconds = rng.randrange(1_700_000_000_000, 1_800_000_000_000) / 1_000
    return dt.datetime.fromtimestamp(seconds, zone).isoformat(timespec="milliseconds")


def open_producer(servers: str) -> KafkaProducer:
    """Return a producer that keeps the order of each key."""
    return KafkaProducer(
        bootstrap_servers=servers,
        linger_ms=20,
        acks="all",
        key_serializer=str.encode,
        value_serializer=lambda value: None if value is None else json.dumps(value).encode(),
    )


def create_topic(servers: str, topic: str, partitions: int) -> None:
    """Make the topic, unless it is there already."""
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        if topic not in admin.list_topics():
            admin.create_topics([NewTopic(topic, partitions, 1)])
    except TopicAlreadyExistsError:
        pass  # Another producer was faster.
    finally:
        admin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", default="127.0.0.1:9092")
    parser.add_argument("--topic", default=TOPIC)
    parser.add_argument("--partitions", type=int, default=3, help="of the topic, if it is new")
    parser.add_argument("--rate", type=float, default=500.0, help="events a second")
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    create_topic(options.servers, options.topic, options.partitions)
    producer = open_producer(options.servers)
    began, sent = time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < options.seconds:
        for _ in range(max(int(elapsed * options.rate) - sent, 0)):
            # Some users are busy, most are not.
            user = f"user-{int(options.users * rng.random() ** 3)}"
            is_gone = rng.random() < 0.01
            producer.send(options.topic, None if is_gone else change(rng, user), key=user)
            sent += 1
        time.sleep(0.02)
    producer.flush()
    print(f"{sent} events")


if __name__ == "__main__":
    main()
