"""What the configuration file says, as typed values; see `docs/configuration.md`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from pipeline.kafka_settings import KafkaSettings
from pipeline.partitioner import PARTITIONERS
from service.configuration_reading import Problems, build, read_file
from synchroscope.digest import MAXIMUM_BITS, Hasher
from synchroscope.errors import ConfigurationError
from synchroscope.view import View

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_REPLICA = re.compile(r"[a-z0-9][a-z0-9-]*@[A-Za-z0-9][A-Za-z0-9._-]*")
EVERY_FIELD = "*"


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the file: unknown keys are errors."""


class LogSection(_Section, frozen=True):
    """Where the log is."""

    kafka: KafkaSettings


class PostgresqlSection(_Section, frozen=True):
    """A schema in a PostgreSQL database."""

    dsn: str
    schema: str = "synchroscope"

    def __repr__(self) -> str:
        return f"PostgresqlSection({masked(self.dsn)})"


class EventStoreSection(_Section, frozen=True):
    """Where the event store is."""

    postgresql: PostgresqlSection


class RedisSection(_Section, frozen=True):
    """Keys in a Redis."""

    url: str
    prefix: str = "synchroscope"

    def __repr__(self) -> str:
        return f"RedisSection({masked(self.url)})"


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

    batch_records: int = 1_000


class ProjectorSection(_Section, frozen=True):
    """How projectors work."""

    batch_records: int = 500
    report_interval_seconds: float = 0.2
    heartbeat_seconds: float = 1.0
    scrub_interval_seconds: float | None = 0.05
    marker_interval: int = 1_024


class DigestSection(_Section, frozen=True):
    """How facts are hashed: every replica and the validator need the same."""

    algorithm: str = "xxh3-128"
    bits: int = 8
    key: str = ""

    def __repr__(self) -> str:
        return f"DigestSection({self.algorithm}, {self.bits})"

    def hasher(self) -> Hasher:
        """Return the hasher."""
        return Hasher(self.algorithm, self.key.encode())


class ValidatorSection(_Section, frozen=True):
    """How validators work."""

    evidence_limit_seconds: float = 30.0
    request_timeout_seconds: float = 2.0
    checkpoint_interval_seconds: float = 0.5
    fold_records: int = 1_000
    digest: DigestSection = DigestSection()


class HttpSection(_Section, frozen=True):
    """Where a process serves metrics, health and API."""

    host: str = "127.0.0.1"
    port: int = 8787


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
    http: HttpSection = HttpSection()
    startup_timeout_seconds: float = 60.0

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


def masked(url: str) -> str:
    """Return a DSN or URL without its password.

    >>> masked("redis://user:secret@host:1/0"), masked("host=a password=b user=c")
    ('redis://user:***@host:1/0', 'host=a password=*** user=c')
    """
    url = re.sub(r"(password=)[^\s&]+", r"\1***", url)
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def load_configuration(path: Path, environ: Mapping[str, str]) -> Configuration:
    """Return what the file says, with the environment over it.

    Raises `ConfigurationError` that names everything that is wrong, each with its line.
    """
    data, problems = read_file(path, environ)
    log = data.get("log")
    if isinstance(log, dict) and isinstance(log.get("kafka"), dict):
        log["kafka"].setdefault("name", data.get("name", "synchroscope"))
    configuration = build(data, Configuration, (), problems)
    if configuration is not None:
        _check(configuration, problems)
    problems.raise_if_any()
    assert configuration is not None
    return configuration


def _check(configuration: Configuration, problems: Problems) -> None:
    """Note what types cannot say."""
    add = problems.add
    if not _NAME.fullmatch(configuration.name):
        add(("name",), "small letters, digits and hyphens are allowed")
    if configuration.partitioner not in PARTITIONERS:
        add(("partitioner",), f"choose one of {', '.join(sorted(PARTITIONERS))}")
    if not configuration.replicas:
        add(("replicas",), "name at least one replica")
    if not 0 <= configuration.http.port <= 65_535:
        add(("http", "port"), "0 to 65535 is allowed")
    _check_numbers(configuration, problems)
    _check_views(configuration, problems)
    _check_replicas(configuration, problems)
    try:
        configuration.validator.digest.hasher()
    except ConfigurationError as error:
        add(("validator", "digest"), str(error))
    if not 0 < configuration.validator.digest.bits <= MAXIMUM_BITS:
        add(("validator", "digest", "bits"), f"1 to {MAXIMUM_BITS} is allowed")


def _check_numbers(configuration: Configuration, problems: Problems) -> None:
    for section, names in (
        ("relay", ("batch_records",)),
        ("projector", ("batch_records", "marker_interval")),
        ("validator", ("fold_records",)),
    ):
        for name in names:
            if getattr(getattr(configuration, section), name) < 1:
                problems.add((section, name), "must be 1 or more")
    projector, validator = configuration.projector, configuration.validator
    for place, seconds in {
        ("projector", "report_interval_seconds"): projector.report_interval_seconds,
        ("projector", "heartbeat_seconds"): projector.heartbeat_seconds,
        ("projector", "scrub_interval_seconds"): projector.scrub_interval_seconds,
        ("validator", "evidence_limit_seconds"): validator.evidence_limit_seconds,
        ("validator", "request_timeout_seconds"): validator.request_timeout_seconds,
        ("validator", "checkpoint_interval_seconds"): validator.checkpoint_interval_seconds,
        ("startup_timeout_seconds",): configuration.startup_timeout_seconds,
    }.items():
        if seconds is not None and not 0 < seconds < float("inf"):
            problems.add(place, "must be over 0")


def _check_views(configuration: Configuration, problems: Problems) -> None:
    for model, view in configuration.views.items():
        if not view.fields:
            problems.add(("views", model, "fields"), "name at least one context type")
        for kind, names in view.fields.items():
            place = ("views", model, "fields", kind)
            if isinstance(names, str) and names != EVERY_FIELD:
                problems.add(place, f'give a list of fields, or "{EVERY_FIELD}" for every field')
            elif not names:
                problems.add(place, f'name at least one field, or "{EVERY_FIELD}"')
        for kind, names in view.public.items():
            seen = view.fields.get(kind, [])
            foreign = [] if seen == EVERY_FIELD else [name for name in names if name not in seen]
            if kind not in view.fields or foreign:
                what = ", ".join(foreign) or kind
                problems.add(("views", model, "public", kind), f"the view does not see {what}")


def _check_replicas(configuration: Configuration, problems: Problems) -> None:
    names: set[str] = set()
    for number, replica in enumerate(configuration.replicas):
        place = ("replicas", number)
        if not _REPLICA.fullmatch(replica.name):
            problems.add((*place, "name"), f"{replica.name!r} is not like model@instance")
        if replica.name in names:
            problems.add((*place, "name"), f"{replica.name} is given twice")
        names.add(replica.name)
        if replica.model not in configuration.views:
            known = ", ".join(configuration.views) or "none"
            problems.add(place, f"there is no view {replica.model}; known are {known}")
        if len(replica.storages) != 1:
            given = " and ".join(replica.storages) or "none"
            problems.add(
                place, f"give one storage of redis, postgresql, lmdb, memory; given: {given}"
            )
