"""Which topics there are to be: how many copies count, and brokers that do not know of them yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline import kafka_topics
from pipeline.kafka_client import TopicState
from pipeline.kafka_settings import KafkaSettings
from pipeline.kafka_topics import check_partitions, check_topics, look_at_topics, wanted_topics
from synchroscope.errors import ConfigurationError
from synchroscope.ports import EVENTS

SETTINGS = KafkaSettings(bootstrap_servers="host:1", replication_factor=3)


@pytest.mark.parametrize(
    ("copies", "given", "needed"), [(1, None, None), (2, None, None), (3, None, "2"), (3, 1, "1")]
)
def test_of_three_copies_or_more_two_are_needed_unless_it_is_said(
    copies: int, given: int | None, needed: str | None
) -> None:
    settings = KafkaSettings(
        bootstrap_servers="host:1", replication_factor=copies, min_insync_replicas=given
    )
    for topic in wanted_topics(settings).values():
        assert topic.settings.get("min.insync.replicas") == needed


class SlowClient:
    """Knows of the topics when it has been asked a few times, like a broker that lags."""

    def __init__(self, after: float, **more: str) -> None:
        self._after = after
        self._more = more
        self._asked = 0

    def partition_counts(self) -> dict[str, int]:
        return {name: state.partitions for name, state in self.topics([]).items()}

    def topics(self, names: Sequence[str]) -> dict[str, TopicState]:
        self._asked += 1
        if self._asked <= self._after:
            return {}
        return {
            topic.name: TopicState(topic.partitions, 3, {**topic.settings, **self._more})
            for topic in wanted_topics(SETTINGS).values()
        }

    def close(self) -> None:
        """Nothing is held."""


def test_a_topic_that_one_broker_does_not_know_yet_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client: Any = SlowClient(after=2)
    assert check_partitions(SETTINGS, client)[EVENTS] == SETTINGS.partitions
    monkeypatch.setattr(kafka_topics, "open_client", lambda settings: SlowClient(after=2))
    assert check_topics(SETTINGS) == []


def test_a_topic_that_is_missing_is_named_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_topics, "VISIBLE_SECONDS", 0.1)
    client: Any = SlowClient(after=float("inf"))
    with pytest.raises(ConfigurationError, match="synchroscope prepare"):
        check_partitions(SETTINGS, client)


def test_a_topic_that_may_choose_a_leader_that_lacks_records_deviates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = SlowClient(0, **{"unclean.leader.election.enable": "true"})
    monkeypatch.setattr(kafka_topics, "open_client", lambda settings: client)
    told = check_topics(SETTINGS)
    assert len(told) == len(wanted_topics(SETTINGS))
    assert all("--add-config unclean.leader.election.enable=false" in one for one in told)
    assert look_at_topics(SETTINGS) == ([], told), "one may go on with it"
