"""What types cannot say of a configuration: names, references, storages, settings that disagree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any
from urllib.parse import urlsplit

from pipeline.kafka_settings import KafkaSecurity, KafkaSettings
from pipeline.partitioner import PARTITIONERS
from service.configuration import (
    EVERY_FIELD,
    EventStoreSection,
    PostgresqlSection,
    ProjectorSection,
    RedisSection,
    ReplicaSection,
    SchemasSection,
    ValidatorSection,
    ViewSection,
)
from service.configuration_problems import Path, Problems
from service.configuration_typing import overlaid, sound
from synchroscope.errors import ConfigurationError

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_REPLICA = re.compile(r"[a-z0-9][a-z0-9-]{0,62}@[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TOPIC_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,200}")
_BROKER = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:,\[\]@/]+):(?P<port>\d{1,5})")
_KEYED = "blake2b-128"


def check(data: Mapping[str, Any], fields: Mapping[str, Any], problems: Problems) -> None:
    """Note what is wrong with those top-level fields that are sound in themselves.

    Parameters
    ----------
    data: The file, with the environment over it.
    fields: The typed values of its sound fields.
    """
    if not _NAME.fullmatch(fields.get("name", "-")) and "name" in fields:
        problems.add(("name",), "1 to 63 small letters, digits and hyphens are allowed")
    if fields.get("partitioner", "by_subject") not in PARTITIONERS:
        problems.add(("partitioner",), f"choose one of {', '.join(sorted(PARTITIONERS))}")
    log = _section(data, "log")
    if "kafka" in log:
        settings = overlaid(KafkaSettings(bootstrap_servers="host:9092"), log["kafka"])
        _check_kafka(settings, ("log", "kafka"), problems)
    event_store = fields.get("event_store")
    if isinstance(event_store, EventStoreSection):
        place: Path = ("event_store", "postgresql")
        _check_postgresql(event_store.postgresql, place, problems)
    _check_views(data.get("views"), problems)
    _check_replicas(data, problems)
    _check_schemas(overlaid(SchemasSection(), _section(data, "schemas")), problems)
    validator = overlaid(ValidatorSection(), _section(data, "validator"))
    _check_validator(validator, overlaid(ProjectorSection(), _section(data, "projector")), problems)


def _section(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = data.get(name)
    return section if isinstance(section, dict) else {}


# -- servers -------------------------------------------------------------------------------------


def _check_kafka(settings: KafkaSettings, path: Path, problems: Problems) -> None:
    for part in settings.bootstrap_servers.split(","):
        found = _BROKER.fullmatch(part.strip())
        if found is None or not 0 < int(found["port"]) < 65_536:
            place = (*path, "bootstrap_servers")
            problems.add(place, "host:port is needed, several of them separated by commas")
            break
    if not _TOPIC_PREFIX.fullmatch(settings.topic_prefix):
        place = (*path, "topic_prefix")
        problems.add(place, "up to 200 letters, digits, '.', '_' and '-' are allowed")
    if settings.message_bytes < settings.batch_bytes:
        problems.add((*path, "message_bytes"), "must not be less than batch_bytes")
    if settings.hang_timeout_seconds < settings.session_timeout_seconds:
        place = (*path, "hang_timeout_seconds")
        problems.add(place, "must not be less than session_timeout_seconds")
    if (settings.min_insync_replicas or 1) > settings.replication_factor:
        place = (*path, "min_insync_replicas")
        problems.add(place, "must not be more than replication_factor: nothing could be written")
    _check_security(settings.security, (*path, "security"), problems)


def _check_security(security: KafkaSecurity, path: Path, problems: Problems) -> None:
    for name in ("mechanism", "username", "password"):
        is_given = getattr(security, name) != ""
        if security.uses_sasl and not is_given:
            problems.add((*path, name), f"is needed for {security.protocol}")
        elif is_given and not security.uses_sasl:
            problems.add((*path, name), "needs protocol SASL_SSL or SASL_PLAINTEXT")
    for name in ("ca_file", "certificate_file", "key_file"):
        file = getattr(security, name)
        if file and not security.uses_tls:
            problems.add((*path, name), "needs protocol SSL or SASL_SSL")
        elif file and not FilePath(file).is_file():
            problems.add((*path, name), f"there is no file {file}")
    if security.key_password and not security.own_key_file:
        problems.add((*path, "key_password"), "needs key_file")
    if security.key_file and not security.certificate_file:
        problems.add((*path, "certificate_file"), "is needed beside key_file")


def _check_postgresql(section: PostgresqlSection, path: Path, problems: Problems) -> None:
    from pipeline.postgresql_database import check_schema, server_of

    if not section.dsn.strip():
        # libpq would take its defaults, and the database of whoever starts the process.
        problems.add_if_alone((*path, "dsn"), "must not be empty: name the database")
    for name, check_it, value in (
        ("dsn", server_of, section.dsn),
        ("schema", check_schema, section.schema),
    ):
        try:
            check_it(value)
        except ConfigurationError as error:
            problems.add((*path, name), str(error))


def _check_schemas(section: SchemasSection, problems: Problems) -> None:
    if "{context_type}" not in section.subject:
        problems.add(("schemas", "subject"), "{context_type} must be part of it")
    address = urlsplit(section.url)
    if section.url and (address.scheme not in ("http", "https") or not address.hostname):
        problems.add(("schemas", "url"), "must be http://host:port or https://host:port")


def _check_redis(section: RedisSection, path: Path, problems: Problems) -> None:
    from pipeline.redis_connection import server_of

    try:
        server_of(section.url)
    except ConfigurationError as error:
        problems.add((*path, "url"), str(error))


# -- views and replicas --------------------------------------------------------------------------


def _check_views(views: Any, problems: Problems) -> None:
    if views == {}:
        problems.add(("views",), "name at least one view")
    for model, data in views.items() if isinstance(views, dict) else ():
        view = sound(data, ViewSection)
        if not model:
            problems.add(("views", model), "a view needs a name")
        if view is not None:
            _check_view(view, ("views", model), problems)


def _check_view(view: ViewSection, path: Path, problems: Problems) -> None:
    if not view.fields:
        problems.add((*path, "fields"), "name at least one context type")
    for kind, names in view.fields.items():
        place = (*path, "fields", kind)
        if not kind or (isinstance(names, list) and "" in names):
            problems.add(place, "a context type and a field need a name")
        if isinstance(names, str):
            if names != EVERY_FIELD:
                problems.add(place, f'give a list of fields, or "{EVERY_FIELD}" for every field')
        elif not names:
            problems.add(place, f'name at least one field, or "{EVERY_FIELD}"')
        elif len(set(names)) < len(names):
            problems.add(place, "a field is given twice")
    for kind, names in view.public.items():
        seen = view.fields.get(kind, [])
        foreign = [] if seen == EVERY_FIELD else [name for name in names if name not in seen]
        if kind not in view.fields or foreign:
            what = ", ".join(foreign) or kind
            problems.add((*path, "public", kind), f"the view does not see {what}")


def _check_replicas(data: Mapping[str, Any], problems: Problems) -> None:
    replicas = data.get("replicas")
    if replicas == []:
        problems.add(("replicas",), "name at least one replica")
    views = data.get("views")
    views = views if isinstance(views, dict) else None
    names: set[str] = set()
    folders: dict[FilePath, str] = {}
    for number, item in enumerate(replicas if isinstance(replicas, list) else ()):
        replica = sound(item, ReplicaSection)
        if replica is None:
            continue
        path: Path = ("replicas", number)
        if not _REPLICA.fullmatch(replica.name):
            problems.add((*path, "name"), f"{replica.name!r} is not like model@instance")
        if replica.name in names:
            problems.add((*path, "name"), f"{replica.name} is given twice")
        names.add(replica.name)
        if views is not None and replica.model not in views:
            known = ", ".join(views) or "none"
            problems.add(path, f"there is no view {replica.model}; known are {known}")
        _check_storage(replica, path, folders, problems)


def _check_storage(
    replica: ReplicaSection, path: Path, folders: dict[FilePath, str], problems: Problems
) -> None:
    if len(replica.storages) != 1:
        given = " and ".join(replica.storages) or "none"
        problems.add(path, f"give one storage of redis, postgresql, lmdb, memory; given: {given}")
    if replica.redis is not None:
        _check_redis(replica.redis, (*path, "redis"), problems)
    if replica.postgresql is not None:
        _check_postgresql(replica.postgresql, (*path, "postgresql"), problems)
    if replica.lmdb is not None:
        folder = FilePath(replica.lmdb.path).absolute()
        other = folders.setdefault(folder, replica.name)
        if not replica.lmdb.path:
            problems.add((*path, "lmdb", "path"), "name a folder")
        elif other != replica.name:
            problems.add((*path, "lmdb", "path"), f"is the folder of {other} already")


# -- the rest ------------------------------------------------------------------------------------


def _check_validator(
    validator: ValidatorSection, projector: ProjectorSection, problems: Problems
) -> None:
    try:
        validator.digest.hasher()
    except ConfigurationError as error:
        name = "key" if _KEYED in (validator.digest.algorithm, str(error).split()[0]) else ""
        place: Path = ("validator", "digest", name or "algorithm")
        problems.add(place, str(error))
    if validator.evidence_limit_seconds <= projector.heartbeat_seconds:
        problems.add(
            ("validator", "evidence_limit_seconds"),
            "must be more than projector.heartbeat_seconds: replicas that have nothing to say "
            "would be UNKNOWN",
        )
