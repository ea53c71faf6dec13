"""What Kafka's error codes mean for us: the one translation that both clients use."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.kafka_settings import KafkaSettings
from synchroscope.errors import (
    ConfigurationError,
    DamagedPartitionError,
    FencedError,
    SynchroscopeError,
    UnavailableError,
)
from synchroscope.ports import TopicPartition

# Codes of the Kafka protocol; both clients carry them.
OFFSET_OUT_OF_RANGE = 1
UNKNOWN_TOPIC = 3
REQUEST_TIMED_OUT = 7
MESSAGE_TOO_LARGE = 10
TOPIC_EXISTS = 36
SASL_FAILED = 58

_FENCED = {
    22: "its generation is over",
    25: "the group does not know it any more",
    47: "a newer producer has its transactional ID",
    82: "another member has its instance ID",
    90: "a newer producer has its transactional ID",
}

_LOGIN = "check kafka security.username, security.password and security.mechanism"
_RIGHTS = "let this user {}, or set kafka security.username to one that may"

_REMEDIES: Mapping[int, str] = {
    UNKNOWN_TOPIC: "check kafka topic_prefix, or create the topics with "
    "`synchroscope prepare --config FILE`",
    MESSAGE_TOO_LARGE: "raise max.message.bytes of the topic to kafka message_bytes (see "
    "`synchroscope prepare --config FILE`)",
    17: "check kafka topic_prefix: letters, digits, '.', '_' and '-' only",
    18: "lower kafka batch_bytes, or raise max.message.bytes of the topic",
    26: "set kafka session_timeout_seconds between group.min.session.timeout.ms and "
    "group.max.session.timeout.ms of the broker",
    29: _RIGHTS.format("read, write and describe the topic"),
    30: _RIGHTS.format("read the consumer group"),
    31: _RIGHTS.format("do that in the cluster (idempotent write, create)"),
    32: "set this host's clock: it is over an hour ahead of the broker's",
    33: "set kafka security.mechanism to one that the broker has",
    34: "set kafka security.protocol and security.mechanism as the broker's listener has them",
    35: "the broker is too old for this: Kafka 2.5 or newer is needed",
    37: "set kafka partitions to 1 or more",
    38: "set kafka replication_factor to the number of brokers or less",
    40: "a topic setting was refused by the broker",
    42: "the broker refused the request as malformed: check the settings it names",
    44: "the cluster's topic policy refused it: change the setting it names",
    50: "lower kafka transaction_timeout_seconds to transaction.max.timeout.ms of the broker",
    53: _RIGHTS.format("write with the transactional ID"),
    54: "set kafka security.protocol as the broker's listener has it",
    SASL_FAILED: _LOGIN,
    76: "set kafka compression to one that the broker knows",
    87: "the broker refused a record: compare the topic with `synchroscope prepare`",
}

_TRUSTED = "kafka security.ca_file to the certificates of the authority that signed the broker's"
_HOST = "a host that the broker's certificate holds (a broker sends its advertised.listeners)"
#: What the clients and OpenSSL say of a connection that no waiting mends, in all their spellings.
_REFUSALS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), remedy)
    for pattern, remedy in (
        # A TLS alert, read as the length of an answer.
        (
            "invalid (frame length|response size):? 352518",
            "the listener has TLS: set kafka security.protocol to SSL or SASL_SSL",
        ),
        ("not valid in current sasl state|illegalsaslstate", _REMEDIES[34]),
        ("unsupported ?sasl ?mechanism", _REMEDIES[33]),
        (
            "alert[a-z0-9 ]* certificate|alert unknown ca",
            "set kafka security.certificate_file and security.key_file to a certificate that the "
            "broker trusts",
        ),
        ("mismatch, certificate is not valid for", f"name in kafka bootstrap_servers {_HOST}"),
        (
            "certificate (has expired|is not yet valid)",
            "have the broker's certificate renewed, or set this host's clock",
        ),
        # What librdkafka says of all three.
        ("could not be verified", f"set {_TRUSTED}, and kafka bootstrap_servers to {_HOST}"),
        ("certificate verify failed", f"set {_TRUSTED}"),
    )
)


def refusal_remedy(text: str) -> str:
    """Return what to do where a text tells that security settings do not fit; else nothing."""
    spelled = text.lower().replace("_", " ")
    return next((remedy for pattern, remedy in _REFUSALS if pattern.search(spelled)), "")


def translated(
    settings: KafkaSettings, doing: str, code: int, text: str, remedy: str = ""
) -> SynchroscopeError:
    """Return our error for one of Kafka's.

    Parameters
    ----------
    doing: What was tried, as it goes on after "while".
    code: Of the Kafka protocol; a client's own codes are mapped to one of these, or to -1.
    text: What the client says of it.
    remedy: What to do, where the code does not say.
    """
    if code in _FENCED:
        return FencedError(
            f"{settings.server}: lost its place while {doing}: {_FENCED[code]}; another process "
            "goes on from here, so drop what is held in memory and open anew"
        )
    remedy = remedy or _REMEDIES.get(code, "")
    if remedy:
        return ConfigurationError(f"{settings.server}: {text} while {doing}: {remedy}")
    return unavailable(settings, doing, text)


def unavailable(settings: KafkaSettings, doing: str, text: str) -> UnavailableError:
    """Return the error for a server that does not answer, or cannot serve at the moment."""
    return UnavailableError(
        settings.server,
        f"{text} while {doing}: check that kafka bootstrap_servers is right, that "
        "security.protocol is as its listener has it, and that the brokers run, for every "
        "partition as many as min.insync.replicas; one whose disk is full stops",
    )


def damaged(settings: KafkaSettings, place: TopicPartition, offset: int) -> SynchroscopeError:
    """Return the error for a batch whose checksum is not right."""
    return DamagedPartitionError(
        settings.server,
        f"{place[0]} partition {place[1]} has a batch at offset {offset} that is not as it was "
        "written (wrong checksum): have the partition led by a broker with a sound copy, or "
        "restore the topic",
    )


def leaping(settings: KafkaSettings, place: TopicPartition, offset: int) -> SynchroscopeError:
    """Return the error for records whose offsets do not rise."""
    return DamagedPartitionError(
        settings.server,
        f"{place[0]} partition {place[1]} holds a record that says it is at offset {offset}, "
        "before others of lower offsets: somebody wrote a malformed batch, and where one would go "
        "on behind it cannot be told; have the topic made anew from the event store "
        "(docs/configuration.md says how), and let nobody else write to it",
    )
