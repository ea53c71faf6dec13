"""How Kafka is reached and used: every setting of the adapters, with its meaning."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from synchroscope.errors import ConfigurationError

ClientName = Literal["kafka-python", "confluent"]
Compression = Literal["none", "lz4", "snappy", "zstd", "gzip"]
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

#: What a batch of records may weigh beyond its records: the broker counts the frame too.
FRAME_BYTES = 4_096
#: The clients count in 32 bits, and a frame comes on top.
LARGEST_MESSAGE_BYTES = 1_000_000_000

#: With so many copies, all but one have to be there for a record to be accepted and kept.
COPIES_TO_LOSE_ONE = 3

Retention = Annotated[float, Meta(ge=1.0, le=3_153_600_000.0)]


class KafkaSecurity(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a client proves who it is and knows whom it talks to; given to both clients alike.

    Parameters
    ----------
    protocol: As the broker's listener has it.
    mechanism: SASL mechanism, for the two SASL protocols.
    username, password: SASL credentials; never shown.
    ca_file: Certificates of the authorities that may have signed the broker's; default: the
        system's.
    certificate_file, key_file, key_password: The client's own certificate, for mutual TLS; without
        a key file the key is in the certificate's. All in PEM.
    """

    protocol: Protocol = "PLAINTEXT"
    mechanism: Mechanism = ""
    username: str = ""
    password: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    key_password: str = ""

    def __post_init__(self) -> None:
        if self.uses_sasl and not (self.mechanism and self.username and self.password):
            raise ConfigurationError(
                f"kafka security.protocol {self.protocol} needs security.mechanism, "
                "security.username and security.password"
            )

    def __repr__(self) -> str:
        return f"KafkaSecurity(protocol={self.protocol!r}, username={self.username!r}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("protocol", self.protocol), ("username", self.username)]

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def own_key_file(self) -> str:
        """Where the key of the client's own certificate is."""
        return self.key_file or self.certificate_file

    @property
    def uses_sasl(self) -> bool:
        """Whether the client logs in."""
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")


class KafkaSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Kafka is and how it is used.

    Parameters
    ----------
    bootstrap_servers: ``host:port`` of one broker or more, separated by commas.
    client: Which library talks to it; ``auto`` takes the faster one where it is installed.
    name: Prefix of the consumer groups and transactional IDs; two installations that share a
        cluster need two names.
    topic_prefix: Stands before every topic's name.
    partitions: Of `context.events`; fixed for the topic's life.
    replication_factor, min_insync_replicas: Of the topics that are created. None: 2 of three copies
        or more; the broker's with fewer.
    compression: Of everything that is sent.
    linger_milliseconds: How long the first records of an append may wait for the rest of it. It
        costs events no latency, since an append ends with a flush; reports, which are posted, wait
        so long. 0 sends many small batches.
    batch_bytes: Largest batch of one partition.
    message_bytes: Largest record, key and headers included; topics are created to take it.
    window_records, window_bytes: How much of each partition that is read is kept at hand, so that
        several readers of one process share what was fetched once.
    session_timeout_seconds: A worker that is silent for so long loses its partitions.
    hang_timeout_seconds: So does one that lives, but has not asked for its partitions for so long.
    transaction_timeout_seconds: The broker aborts a transaction that is open for longer; until then
        its partitions' readers wait.
    request_timeout_seconds: Longest wait for an answer before the server counts as unavailable.
    events_retention_seconds, control_retention_seconds, control_retention_bytes: How long records
        of `context.events`, and of `sync.reports` and `sync.requests`, are kept; None: for ever.
    security: How to log in and encrypt.
    """

    bootstrap_servers: str
    client: Literal["auto", "kafka-python", "confluent"] = "auto"
    name: str = "synchroscope"
    topic_prefix: str = ""
    partitions: Annotated[int, Meta(ge=1, le=10_000)] = 4
    replication_factor: Annotated[int, Meta(ge=1, le=100)] = 1
    min_insync_replicas: Annotated[int, Meta(ge=1, le=100)] | None = None
    compression: Compression = "lz4"
    linger_milliseconds: Annotated[float, Meta(ge=0.0, le=60_000.0)] = 5.0
    batch_bytes: Annotated[int, Meta(ge=1, le=LARGEST_MESSAGE_BYTES)] = 262_144
    message_bytes: Annotated[int, Meta(ge=1, le=LARGEST_MESSAGE_BYTES)] = 4_194_304
    window_records: Annotated[int, Meta(ge=1, le=10_000_000)] = 16_384
    window_bytes: Annotated[int, Meta(ge=1, le=2**36)] = 16_777_216
    session_timeout_seconds: Annotated[float, Meta(ge=1.0, le=1_800.0)] = 6.0
    hang_timeout_seconds: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 60.0
    transaction_timeout_seconds: Annotated[float, Meta(ge=1.0, le=900.0)] = 10.0
    request_timeout_seconds: Annotated[float, Meta(ge=1.0, le=600.0)] = 10.0
    events_retention_seconds: Retention | None = None
    control_retention_seconds: Retention | None = 86_400.0
    control_retention_bytes: Annotated[int, Meta(ge=1, le=2**50)] | None = 268_435_456
    security: KafkaSecurity = KafkaSecurity()

    def __post_init__(self) -> None:
        for setting in ("partitions", "replication_factor", "batch_bytes", "window_records"):
            if getattr(self, setting) < 1:
                raise ConfigurationError(
                    f"kafka {setting}: {getattr(self, setting)}, but it must be 1 or more"
                )
        if self.message_bytes < self.batch_bytes:
            raise ConfigurationError(
                f"kafka message_bytes: {self.message_bytes} is less than batch_bytes "
                f"({self.batch_bytes}), and a topic refuses what is larger than its message_bytes"
            )
        if not all(":" in part for part in self.bootstrap_servers.split(",")):
            raise ConfigurationError(
                f"kafka bootstrap_servers: {self.bootstrap_servers!r}, but host:port is needed"
            )

    @property
    def server(self) -> str:
        """What error messages call the server."""
        return f"kafka {self.bootstrap_servers}"

    @property
    def needed_insync_replicas(self) -> int | None:
        """How many copies there must be of what is acknowledged; None: the broker says it.

        With one, which is the broker's default, an acknowledged record is lost with a leader that
        was alone for a while.
        """
        if self.min_insync_replicas is None and self.replication_factor >= COPIES_TO_LOSE_ONE:
            return COPIES_TO_LOSE_ONE - 1
        return self.min_insync_replicas

    def topic(self, name: str) -> str:
        """Return what Kafka calls a topic of the log."""
        return self.topic_prefix + name


def chosen_client(settings: KafkaSettings) -> ClientName:
    """Return which library is used; raise `ConfigurationError` if it is not installed."""
    has_confluent = find_spec("confluent_kafka") is not None
    if settings.client == "auto":
        return "confluent" if has_confluent else "kafka-python"
    if settings.client == "confluent" and not has_confluent:
        raise ConfigurationError(
            "kafka client: confluent is not installed: install synchroscope[fast], or set "
            "kafka client to auto or kafka-python"
        )
    return settings.client
