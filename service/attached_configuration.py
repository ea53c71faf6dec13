"""What `attached.yaml` says, as typed values; see `docs/attached.md`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from xxhash import xxh3_64_hexdigest

from pipeline.kafka_settings import KafkaSettings
from service.configuration_problems import Problems
from service.configuration_reading import read_file
from service.configuration_secrets import masked
from service.configuration_typing import build_fields
from synchroscope.errors import ConfigurationError
from validator.attached.record_mapping import RecordMapping, RecordReader
from validator.attached.row_mapping import EVERY_FIELD, RowMapping
from validator.attached.schedule import DEFAULT_HORIZONS_SECONDS
from validator.attached.store_settings import StoreSettings

Seconds = Annotated[float, Meta(gt=0.0, le=604_800.0)]
MAXIMUM_STORES = 100
MAXIMUM_HORIZONS = 10


class AttachedLogSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which topic, and from where on it is folded the first time.

    ``start``: ``earliest``, ``latest``, or a moment such as ``2026-01-31T00:00:00Z``.
    """

    kafka: KafkaSettings
    topic: str
    start: str = "earliest"

    @property
    def begin(self) -> Any:
        """``start`` as the validator takes it: a moment in seconds since 1970."""
        if self.start in ("earliest", "latest"):
            return self.start
        moment = dt.datetime.fromisoformat(self.start)
        return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


class StoreSection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A store, where facts stand in it, and how it is looked at."""

    name: str
    uri: str
    subject: str
    type: str = ""
    type_column: str = ""
    key_columns: list[str] = []
    fields: dict[str, str] | str = EVERY_FIELD
    ignore: list[str] = []
    offset: str = ""
    version: str = ""
    text: bool | None = None
    public: list[str] = []
    group: str = ""
    budget_keys_per_second: Annotated[float, Meta(ge=1.0, le=1_000_000.0)] = 2_000.0
    settle_seconds: Seconds = 5.0
    recheck_seconds: Seconds = 2.0
    order_seconds: Annotated[float, Meta(ge=0.0, le=3_600.0)] = 1.0
    walk_interval_seconds: Seconds = 60.0
    walk_limit_seconds: Seconds = 3_600.0
    answer_seconds: Seconds = 10.0
    expires: bool = False

    def __repr__(self) -> str:
        return f"StoreSection(name={self.name!r}, uri={masked(self.uri)!r}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("name", self.name), ("uri", masked(self.uri))]

    @property
    def keys(self) -> tuple[str, ...]:
        """The key columns: as given, or those of subject and type."""
        named = [self.subject, self.type_column]
        return tuple(self.key_columns) or tuple(name for name in named if name)

    @property
    def columns(self) -> list[str] | None:
        """The columns to read; None: all of them."""
        if not isinstance(self.fields, dict):
            return None
        if any(source.startswith("$") for source in self.fields.values()):
            return None
        more = [name for name in (self.offset, self.version) if name]
        return list(dict.fromkeys([*self.fields.values(), *more]))

    def row_mapping(self, context_type: str, *, is_typed: bool) -> RowMapping:
        """Return where facts stand in a row."""
        return RowMapping(
            subject=self.subject,
            type="" if self.type_column else self.type or context_type,
            type_column=self.type_column,
            fields=self.fields,
            ignore=frozenset(self.ignore),
            offset=self.offset,
            version=self.version,
            is_text=not is_typed if self.text is None else self.text,
        )

    def settings(self) -> StoreSettings:
        """Return how it is looked at."""
        return StoreSettings(
            name=self.name,
            budget_keys_per_second=self.budget_keys_per_second,
            settle_seconds=self.settle_seconds,
            recheck_seconds=self.recheck_seconds,
            order_seconds=self.order_seconds,
            walk_seconds=self.walk_interval_seconds,
            walk_limit_seconds=self.walk_limit_seconds,
            answer_seconds=self.answer_seconds,
            expires=self.expires,
            group=self.group,
            public=frozenset(self.public),
        )


class AttachedConfiguration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    log: AttachedLogSection
    record: RecordMapping
    stores: list[StoreSection]
    horizons_seconds: list[Seconds] = msgspec.field(
        default_factory=lambda: list(DEFAULT_HORIZONS_SECONDS)
    )

    @property
    def constant_type(self) -> str:
        """The context type, where the mapping gives all records the same one."""
        source = self.record.type
        is_source = source.startswith(("$", "key.$", "header.")) or source in ("key",)
        return "" if is_source else source

    def fingerprint(self) -> str:
        """Return what names the fold: another one needs another folder."""
        # What is made of unreadable records can be changed at any time.
        record = {**msgspec.to_builtins(self.record)}
        del record["unreadable"]
        what = [self.log.topic, self.log.start, record]
        return xxh3_64_hexdigest(msgspec.json.encode(what, order="deterministic"))


def load_attached(path: Path, environ: Mapping[str, str]) -> AttachedConfiguration:
    """Return what the file says, with the environment over it.

    Raises `ConfigurationError` that names everything that is wrong, each with its line.
    """
    data, problems = read_file(path, environ)
    fields = build_fields(data, AttachedConfiguration, problems)
    _check(fields, problems)
    problems.raise_if_any()
    return AttachedConfiguration(**fields)


def _check(fields: Mapping[str, Any], problems: Problems) -> None:
    log = fields.get("log")
    if isinstance(log, AttachedLogSection):
        try:
            _ = log.begin
        except ValueError:
            text = "give earliest, latest or a moment such as 2026-01-31T00:00:00Z"
            problems.add(("log", "start"), text)
        if not log.topic.strip():
            problems.add_if_alone(("log", "topic"), "must not be empty")
    record = fields.get("record")
    if isinstance(record, RecordMapping):
        try:
            RecordReader(record)
        except ConfigurationError as error:
            problems.add(("record",), str(error))
    horizons = fields.get("horizons_seconds", [1.0])
    if not 0 < len(horizons) <= MAXIMUM_HORIZONS or sorted(set(horizons)) != list(horizons):
        problems.add(("horizons_seconds",), "give 1 to 10 numbers, each larger than the one before")
    _check_stores(fields, problems)


def _check_stores(fields: Mapping[str, Any], problems: Problems) -> None:
    stores: list[StoreSection] = fields.get("stores") or []
    if "stores" in fields and not 0 < len(stores) <= MAXIMUM_STORES:
        problems.add(("stores",), f"name 1 to {MAXIMUM_STORES} stores")
    names: set[str] = set()
    for number, store in enumerate(stores):
        place = ("stores", number)
        if not store.name or store.name in names:
            problems.add((*place, "name"), "each store needs a name of its own")
        names.add(store.name)
        if not store.uri.strip():
            problems.add_if_alone((*place, "uri"), "must not be empty")
        if isinstance(store.fields, str) and store.fields != EVERY_FIELD:
            problems.add((*place, "fields"), 'give a mapping of fields to columns, or "*"')
        if store.type and store.type_column:
            problems.add((*place, "type"), "give type or type_column, not both")
        if store.offset and store.version:
            problems.add((*place, "version"), "give offset or version, not both")
        record = fields.get("record")
        if isinstance(record, RecordMapping):
            if store.version and not record.version:
                problems.add((*place, "version"), "needs record.version, to know what it means")
            is_source = record.type.startswith(("$", "key", "header."))
            if is_source and not (store.type or store.type_column):
                problems.add(place, "name the type of its rows, or their type_column")
