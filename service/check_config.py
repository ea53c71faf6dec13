"""`synchroscope check-config`: what a configuration says, what is wrong with it, who answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.kafka_settings import chosen_client
from service.configuration import (
    EVERY_FIELD,
    Configuration,
    PostgresqlSection,
    ReplicaSection,
    load_configuration,
)
from service.configuration_problems import WrongConfigurationError
from service.configuration_secrets import masked
from service.configuration_servers import Answer, State, ask_servers
from synchroscope.errors import ConfigurationError

_SHOWN: Mapping[State, tuple[str, str]] = {
    "fine": ("answers", "green"),
    "wrong": ("is not as it must be", "red"),
    "away": ("does not answer", "yellow"),
}


def check_config(
    path: Path, environ: Mapping[str, str], console: Console, *, connect: bool, as_json: bool
) -> int:
    """Show what the file says and, if asked to, whether its servers answer; return the exit code.

    0: all is sound. 2: something is wrong, or a server refuses. 3: a server does not answer.
    """
    try:
        configuration = load_configuration(path, environ)
        understood = summary(configuration)
    except ConfigurationError as error:
        problems = [str(error)]
        if isinstance(error, WrongConfigurationError):
            problems = error.problems
        if not as_json:
            raise
        _print_json(console, {"file": str(path), "problems": problems})
        return 2
    if not as_json:
        _print_summary(console, path, understood)
    answers: list[Answer] = []
    for answer in ask_servers(configuration) if connect else ():
        answers.append(answer)
        if not as_json:
            _print_answer(console, answer)
    if as_json:
        told = {"file": str(path), "problems": [], "configuration": understood}
        _print_json(console, told | {"servers": msgspec.to_builtins(answers)})
    states = {answer.state for answer in answers}
    return 2 if "wrong" in states else 3 if "away" in states else 0


# -- what was understood -------------------------------------------------------------------------


def summary(configuration: Configuration) -> dict[str, Any]:
    """Return what a configuration says, without secrets.

    Raises `ConfigurationError` if the Kafka client that it names is not installed here.
    """
    kafka = configuration.log.kafka
    return {
        "name": configuration.name,
        "kafka": {
            "bootstrap_servers": kafka.bootstrap_servers,
            "client": chosen_client(kafka),
            "security": " ".join(filter(None, (kafka.security.protocol, kafka.security.mechanism))),
            "topic_prefix": kafka.topic_prefix,
            "partitions": kafka.partitions,
            "replication_factor": kafka.replication_factor,
            "compression": kafka.compression,
        },
        "event_store": _postgresql(configuration.event_store.postgresql),
        "partitioner": configuration.partitioner,
        "digest": {
            "algorithm": configuration.validator.digest.algorithm,
            "bits": configuration.validator.digest.bits,
        },
        "http": f"{configuration.http.host}:{configuration.http.port}",
        "views": {
            model: {
                kind: names if names == EVERY_FIELD else sorted(names)
                for kind, names in view.fields.items()
            }
            for model, view in configuration.views.items()
        },
        "replicas": [_replica(replica) for replica in configuration.replicas],
    }


def _postgresql(section: PostgresqlSection) -> str:
    return f"{masked(section.dsn)} schema {section.schema}"


def _replica(section: ReplicaSection) -> dict[str, Any]:
    place = ""
    if section.redis is not None:
        place = f"{masked(section.redis.url)} prefix {section.redis.prefix}"
    elif section.postgresql is not None:
        place = _postgresql(section.postgresql)
    elif section.lmdb is not None:
        place = str(Path(section.lmdb.path).absolute())
    is_shared = section.redis is not None or section.postgresql is not None
    return {
        "name": section.name,
        "view": section.model,
        "storage": section.storages[0],
        "place": place,
        "run_by": "every projector" if is_shared else f"run --replica {section.name}",
    }


def _print_json(console: Console, told: dict[str, Any]) -> None:
    console.file.write(json.dumps(told, ensure_ascii=False) + "\n")


def _print_summary(console: Console, path: Path, understood: dict[str, Any]) -> None:
    kafka = understood["kafka"]
    facts = {
        "name": understood["name"],
        "Kafka": f"{kafka['bootstrap_servers']} {kafka['security']}, client {kafka['client']}",
        "topics": f"{kafka['topic_prefix']}*, {kafka['partitions']} partitions "
        f"{understood['partitioner']}, replication {kafka['replication_factor']}, "
        f"{kafka['compression']}",
        "event store": understood["event_store"],
        "digest": f"{understood['digest']['algorithm']}, {1 << understood['digest']['bits']} "
        "buckets",
        "metrics and API": understood["http"],
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(value))
    console.print(table)
    console.print(_table(("view", "sees"), _view_rows(understood["views"])))
    columns = ("replica", "view", "storage", "place", "run by")
    console.print(_table(columns, (map(str, one.values()) for one in understood["replicas"])))
    console.print(Text(f"{path} is sound"))


def _view_rows(views: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for model, kinds in views.items():
        seen = (
            f"{kind}: {'every field' if names == EVERY_FIELD else ', '.join(names)}"
            for kind, names in kinds.items()
        )
        yield model, "; ".join(seen)


def _table(columns: tuple[str, ...], rows: Iterator[Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _print_answer(console: Console, answer: Answer) -> None:
    console.print(Text.assemble(f"{answer.server} ", _SHOWN[answer.state]), soft_wrap=True)
    for problem in answer.problems:
        console.print(Text(f"  {problem}"), soft_wrap=True)
