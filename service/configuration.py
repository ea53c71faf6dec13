"""What the configuration file says, as typed values; see `docs/configuration.md`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from pipeline.kafka_settings import KafkaSettings
from service.configuration_reading import read_file
from service.configuration_secrets import SECRET_KEYS, URL_KEYS, masked
from service.configuration_typing import build_fields
from synchroscope.digest import MAXIMUM_BITS, Hasher
from synchroscope.view import View

EVERY_FIELD = "*"

Records = Annotated[int, Meta(ge=1, le=100_000)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the file: unknown keys are errors, and secrets are not shown."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, _shown(name, getattr(self, name))) for name in self.__struct_fields__]


def _shown(name: str, value: Any) -> Any:
    if name in SECRET_KEYS:
        return "***" if value else ""
    return masked(value) if name in URL_KEYS else value


class LogSection(_Section, frozen=True):
    """Where the log is."""

    kafka: KafkaSettings


class PostgresqlSection(_Section, frozen=True):
    """A schema in a PostgreSQL database."""

    dsn: str
    schema: str = "synchroscope"


class EventStoreSection(_Section, frozen=True):
    """Where the event store is."""

    postgresql: PostgresqlSection


class RedisSection(_Section, frozen=True):
    """Keys in a Redis."""

    url: str
    prefix: str = "synchroscope"


class LmdbSection(_Section, frozen=True):
    """A folder of one process."""

    path: str


class MemorySection(_Section, frozen=True):
    """The memory of one process."""


class ViewSection(_Section, frozen=True):
    """What a model is to see: context type -> fields, or ``"*"`` for every field."""

    fields: dict[str, list[str] | str]
    public: dict[str, list[str]] = {}


class ReplicaSection(_Section, frozen=True):
    """A replica and where its facts live: exactly one of the storages."""

    name: str
    view: str = ""
    redis: RedisSection | None = None
    postgresql: PostgresqlSection | None = None
    lmdb: LmdbSection | None = None
    memory: MemorySection | None = None

    @property
    def model(self) -> str:
        """The name of the view: the part before @, unless the file says otherwise."""
        return self.view or self.name.partition("@")[0]

    @property
    def storages(self) -> list[str]:
        """Which storages are given."""
        kinds = ("redis", "postgresql", "lmdb", "memory")
        return [kind for kind in kinds if getattr(self, kind) is not None]


class RelaySection(_Section, frozen=True):
    """How the relay works."""

    batch_records: Records = 1_000
    cloudevents: bool = False


class ProjectorSection(_Section, frozen=True):
    """How projectors work."""

    batch_records: Records = 500
    report_interval_seconds: Seconds = 0.2
    heartbeat_seconds: Seconds = 1.0
    scrub_interval_seconds: Seconds | None = 0.05
    scrub_keys_per_second: Annotated[float, Meta(ge=1.0, le=10_000_000.0)] = 10_000.0
    marker_interval: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_024


class DigestSection(_Section, frozen=True):
    """How facts are hashed: every replica and the validator need the same."""

    algorithm: str = "xxh3-128"
    bits: Annotated[int, Meta(ge=1, le=MAXIMUM_BITS)] = 8
    key: str = ""

    def hasher(self) -> Hasher:
        """Return the hasher."""
        return Hasher(self.algorithm, self.key.encode())


class RepairSection(_Section, frozen=True):
    """How hard repairs may work a partition of a replica."""

    aggregates_per_message: Annotated[int, Meta(ge=1, le=250)] = 100
    aggregates_per_second: Annotated[float, Meta(gt=0.0, le=100_000.0)] = 500.0


class ValidatorSection(_Section, frozen=True):
    """How validators work."""

    evidence_limit_seconds: Seconds = 30.0
    request_timeout_seconds: Seconds = 2.0
    checkpoint_interval_seconds: Seconds = 0.5
    fold_records: Records = 2_048
    digest: DigestSection = DigestSection()
    repair: RepairSection = RepairSection()


class SchemasSection(_Section, frozen=True):
    """The schema registry, and the check of every event against its context type's schema."""

    url: str = ""
    timeout_seconds: Seconds = 5.0
    kept_seconds: Seconds = 30.0
    subject: str = "{context_type}"
    sample_every: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    right_events: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    right_seconds: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 60.0
    batch_records: Records = 1_000


class HopsSection(_Section, frozen=True):
    """The audit of the hops: what every one counts, and how it is compared."""

    window_seconds: Annotated[float, Meta(ge=1.0, le=3_600.0)] = 10.0
    settle_seconds: Seconds = 5.0
    producers: list[str] = []


class HttpSection(_Section, frozen=True):
    """Where a process serves metrics, health and API."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8787


class Configuration(_Section, frozen=True):
    """The whole file."""

    log: LogSection
    event_store: EventStoreSection
    views: dict[str, ViewSection]
    replicas: list[ReplicaSection]
    name: str = "synchroscope"
    partitioner: str = "by_subject"
    relay: RelaySection = RelaySection()
    projector: ProjectorSection = ProjectorSection()
    validator: ValidatorSection = ValidatorSection()
    schemas: SchemasSection | None = None
    hops: HopsSection | None = None
    http: HttpSection = HttpSection()
    startup_timeout_seconds: Seconds = 60.0

    def view(self, model: str) -> View:
        """Return a model's view."""
        section = self.views[model]
        return View(
            model,
            {
                kind: frozenset() if names == EVERY_FIELD else frozenset(names)
                for kind, names in section.fields.items()
            },
            {kind: frozenset(names) for kind, names in section.public.items()},
        )


def load_configuration(path: Path, environ: Mapping[str, str]) -> Configuration:
    """Return what the file says, with the environment over it.

    Raises `ConfigurationError` that names everything that is wrong, each with its line.
    """
    from service.configuration_checks import check

    data, problems = read_file(path, environ)
    _name_the_log(data)
    fields = build_fields(data, Configuration, problems)
    check(data, fields, problems)
    problems.raise_if_any()
    return Configuration(**fields)


def _name_the_log(data: dict[str, Any]) -> None:
    """Have Kafka's groups and transactions bear the installation's name."""
    log, name = data.get("log"), data.get("name")
    if isinstance(log, dict) and isinstance(log.get("kafka"), dict) and isinstance(name, str):
        log["kafka"].setdefault("name", name)
