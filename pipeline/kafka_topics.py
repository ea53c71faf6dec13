"""Which topics Kafka must have and how they are set: creates them, and says what deviates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from typing import TypeVar

from pipeline.kafka_client import Client, NewTopic, TopicState, open_client
from pipeline.kafka_errors import unavailable
from pipeline.kafka_settings import FRAME_BYTES, KafkaSettings
from synchroscope.errors import ConfigurationError
from synchroscope.ports import (
    CONTROL_TOPICS,
    DEAD_LETTERS,
    EVENTS,
    FINDINGS,
    REPORTS,
    REQUESTS,
    STATE,
)

_Answer = TypeVar("_Answer")
_FOR_EVER = "-1"
_INSYNC = "min.insync.replicas"
_UNCLEAN = "unclean.leader.election.enable"
_CREATE = "`synchroscope prepare --config FILE`"
_VISIBLE_POLL_SECONDS = 0.05
#: One broker knows of a new topic before another one does: so long a topic is looked for.
VISIBLE_SECONDS = 1.0

#: The state is read whole when a role starts: it is compacted early and often, so that what is to
#: be read stays near one record a key.
_STATE_SETTINGS: Mapping[str, str] = {
    "cleanup.policy": "compact",
    "segment.bytes": "4194304",
    "segment.ms": "60000",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "300000",
    "delete.retention.ms": "60000",
}


def wanted_topics(settings: KafkaSettings) -> dict[str, NewTopic]:
    """Return every topic of the log as it is to be, by the log's name for it."""
    kept = {
        EVENTS: _retention(settings.events_retention_seconds, None),
        REPORTS: _retention(settings.control_retention_seconds, settings.control_retention_bytes),
        REQUESTS: _retention(settings.control_retention_seconds, settings.control_retention_bytes),
        FINDINGS: _retention(None, None),
        STATE: _STATE_SETTINGS,
        DEAD_LETTERS: _retention(None, None),
    }
    common = {
        # A record's time is when it was appended by its producer; lag is computed from it.
        "message.timestamp.type": "CreateTime",
        "max.message.bytes": str(settings.message_bytes + FRAME_BYTES),
        "compression.type": "producer",
    }
    if settings.needed_insync_replicas is not None:
        common[_INSYNC] = str(settings.needed_insync_replicas)
    return {
        topic: NewTopic(
            settings.topic(topic),
            settings.partitions if topic == EVENTS else 1,
            settings.replication_factor,
            {**common, **kept[topic]},
        )
        for topic in (EVENTS, *CONTROL_TOPICS)
    }


def _retention(seconds: float | None, size_bytes: int | None) -> dict[str, str]:
    return {
        "cleanup.policy": "delete",
        "retention.ms": _FOR_EVER if seconds is None else str(int(seconds * 1000)),
        "retention.bytes": _FOR_EVER if size_bytes is None else str(size_bytes),
    }


def ensure_topics(settings: KafkaSettings) -> list[str]:
    """Create the topics that are missing, leave the others as they are; return those created.

    Several processes may do this at once. Raises `ConfigurationError` where the cluster refuses.
    """
    with closing(open_client(settings)) as client:
        existing = client.partition_counts()
        missing = [t for t in wanted_topics(settings).values() if t.name not in existing]
        if not missing:
            return []
        client.create_topics(missing)
        names = [topic.name for topic in missing]
        seen = _with(names, client.partition_counts, settings.request_timeout_seconds)
        if not set(names) <= seen.keys():
            raise unavailable(settings, "creating topics", "they do not appear")
        return names


def _with(
    names: Iterable[str], ask: Callable[[], dict[str, _Answer]], seconds: float
) -> dict[str, _Answer]:
    """Return an answer that has all the names, or the last one when time is over."""
    wanted, deadline = set(names), time.monotonic() + seconds
    while not wanted <= (answer := ask()).keys() and time.monotonic() < deadline:
        time.sleep(_VISIBLE_POLL_SECONDS)
    return answer


def delete_topics(settings: KafkaSettings) -> None:
    """Delete the topics with everything in them."""
    with closing(open_client(settings)) as client:
        client.delete_topics([topic.name for topic in wanted_topics(settings).values()])


def check_topics(settings: KafkaSettings) -> list[str]:
    """Return a sentence for each way in which the topics are not as they should be."""
    deviations, advice = look_at_topics(settings)
    return deviations + advice


def look_at_topics(settings: KafkaSettings) -> tuple[list[str], list[str]]:
    """Return what `check_topics` does, in two lists: what must be changed, and what could be safer.

    Topics that were made with other settings, or by an earlier release, may go on being used.
    """
    wanted = wanted_topics(settings)
    names = [topic.name for topic in wanted.values()]
    with closing(open_client(settings)) as client:
        states = _with(names, lambda: client.topics(names), VISIBLE_SECONDS)
    deviations: list[str] = []
    advice: list[str] = []
    for topic in wanted.values():
        state = states.get(topic.name)
        if state is None:
            deviations.append(f"topic {topic.name} is missing: create it with {_CREATE}")
        else:
            deviations += _deviations(topic, state)
            advice += _advice(topic, state)
    return deviations, advice


def _advice(wanted: NewTopic, state: TopicState) -> list[str]:
    found = []
    if state.replication_factor < wanted.replication_factor:
        found.append(
            f"topic {wanted.name} has replication factor {state.replication_factor}, configured "
            f"is {wanted.replication_factor}: reassign it with kafka-reassign-partitions"
        )
    if state.settings.get(_UNCLEAN) == "true" and wanted.replication_factor > 1:
        found.append(
            f"topic {wanted.name} has {_UNCLEAN}=true, with which acknowledged records are lost: "
            f"kafka-configs --alter --topic {wanted.name} --add-config {_UNCLEAN}=false"
        )
    needed, actual = wanted.settings.get(_INSYNC), int(state.settings.get(_INSYNC) or 0)
    if needed is not None and actual < int(needed):
        kept = f"; or keep it as it is with kafka min_insync_replicas: {actual}"
        found.append(_setting_deviates(wanted, state, _INSYNC) + kept)
    return found


def _setting_deviates(wanted: NewTopic, state: TopicState, name: str) -> str:
    value = wanted.settings[name]
    return (
        f"topic {wanted.name} has {name}={state.settings.get(name, '')}, needed is {value}: "
        f"kafka-configs --alter --topic {wanted.name} --add-config {name}={value}"
    )


def _deviations(wanted: NewTopic, state: TopicState) -> list[str]:
    found = []
    if state.partitions != wanted.partitions:
        found.append(_count_deviates(wanted, state.partitions))
    for name, value in wanted.settings.items():
        actual = state.settings.get(name, "")
        if not _is_good(name, value, actual):
            found.append(_setting_deviates(wanted, state, name))
    return found


def _is_good(name: str, wanted: str, actual: str) -> bool:
    if name in ("cleanup.policy", "message.timestamp.type"):
        return actual == wanted
    if name in ("retention.ms", "retention.bytes"):
        # Losing records early is a deviation; keeping them longer, or tuning, is the owner's right.
        return actual == _FOR_EVER or (wanted != _FOR_EVER and int(actual or 0) >= int(wanted))
    if name == "max.message.bytes":
        return int(actual or 0) >= int(wanted)
    return True


def _count_deviates(wanted: NewTopic, count: int) -> str:
    if wanted.partitions == 1:
        return (
            f"topic {wanted.name} has {count} partitions, it must have 1: delete it, then {_CREATE}"
        )
    return (
        f"topic {wanted.name} has {count} partitions, kafka partitions is {wanted.partitions}: "
        f"they are fixed for life, so set kafka partitions to {count}, or take another topic_prefix"
    )


def check_partitions(settings: KafkaSettings, client: Client) -> dict[str, int]:
    """Return the partition counts of the log's topics; raise if one is missing or deviates."""
    wanted = wanted_topics(settings)
    names = [topic.name for topic in wanted.values()]
    counts = _with(names, client.partition_counts, VISIBLE_SECONDS)
    deviations = []
    for topic in wanted.values():
        count = counts.get(topic.name)
        if count is None:
            deviations.append(f"topic {topic.name} is missing: create it with {_CREATE}")
        elif count != topic.partitions:
            deviations.append(_count_deviates(topic, count))
    if deviations:
        raise ConfigurationError(f"{settings.server}: {'; '.join(deviations)}")
    return {name: topic.partitions for name, topic in wanted.items()}
