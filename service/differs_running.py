"""What `synchroscope differs` does, and what others may call: log and findings in, ranking out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jsonpath
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from synchroscope.errors import ConfigurationError
from synchroscope.foreign import decoded
from synchroscope.ports import Log
from synchroscope.view import View
from validator.differs import Differs, PopulationRanking, what_differs
from validator.dimensions import DIMENSIONS, Dimension
from validator.finding import KINDS, Finding
from validator.ledger import FindingsReader
from validator.ranking import Ranked

PLAIN_WIDTH = 140
MAXIMUM_TEXT_CHARACTERS = 200


class Asked(Struct, frozen=True):
    """What the command line asks for; one of `config` and `data_dir` is given."""

    config: Path | None
    data_dir: Path | None
    only_open: bool = False
    kinds: tuple[str, ...] = ()
    dimensions: tuple[str, ...] = ()
    false_discovery_rate: float = 0.05
    events: int = 1_000_000
    seed: int = 0


@contextmanager
def open_log(asked: Asked) -> Iterator[tuple[Log, dict[str, View]]]:
    """Open the log for reading; yield it with the view of every replica."""
    if asked.config is not None:
        from pipeline.log_kafka import KafkaLog
        from service.configuration import load_configuration
        from service.stores import replica_plans

        configuration = load_configuration(asked.config, os.environ)
        with closing(KafkaLog(configuration.log.kafka)) as log:
            yield log, {plan.name: plan.view for plan in replica_plans(configuration)}
        return
    if asked.data_dir is None:
        raise ConfigurationError("name --config FILE or --data-dir DIR")
    from pipeline.log_sqlite import SqliteLog
    from pipeline.sqlite_database import SqliteDatabase
    from service.demo import REPLICAS

    path = asked.data_dir / "synchroscope.db"
    if not path.is_file():
        raise ConfigurationError(f"{asked.data_dir} is no data folder: it has no {path.name}")
    with closing(SqliteDatabase(path, exclusive=False)) as database:
        yield SqliteLog(database, {}), {spec.name: spec.view for spec in REPLICAS}


def own_dimension(text: str) -> tuple[str, Dimension]:
    """Return the dimension that ``NAME=JSONPATH`` means.

    >>> name, read = own_dimension("region=$.contextDelta.updates.country.current")
    >>> name, read(b'{"contextDelta": {"updates": {"country": {"current": "France"}}}}')
    ('region', ('France',))
    """
    name, _, path = text.partition("=")
    if not name or not path:
        raise ConfigurationError(f"--dimension {text}: give NAME=JSONPATH")
    if name in DIMENSIONS:
        raise ConfigurationError(f"--dimension {name}: events are compared by {name} already")
    try:
        compiled = jsonpath.compile(path)
    except jsonpath.JSONPathError as error:
        raise ConfigurationError(f"--dimension {name}: {path} is no JSONPath ({error})") from None

    def read(value: bytes) -> tuple[str, ...]:
        document = decoded(msgspec.json.decode, value)
        found = [] if document is None else compiled.findall(document)
        return tuple(str(one)[:MAXIMUM_TEXT_CHARACTERS] for one in found if one is not None)

    return name, read


def differs_of(
    log: Log, findings: Sequence[Finding], replicas: Mapping[str, View], asked: Asked
) -> Differs:
    """Return what those of the findings share that were asked for."""
    wanted = [
        finding
        for finding in findings
        if (not asked.only_open or finding.state != "resolved")
        and (not asked.kinds or finding.kind in asked.kinds)
    ]
    return what_differs(
        log,
        wanted,
        replicas,
        seed=asked.seed,
        false_discovery_rate=asked.false_discovery_rate,
        maximum_events=asked.events,
        dimensions=dict(map(own_dimension, asked.dimensions)),
        wait=getattr(log, "wait", lambda seconds: None),
    )


def _check(asked: Asked) -> None:
    unknown = sorted(set(asked.kinds) - set(KINDS))
    if unknown:
        raise ConfigurationError(f"--kind {unknown[0]}: choose of {', '.join(KINDS)}")
    names = [name for name, _ in map(own_dimension, asked.dimensions)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"--dimension {name} is given twice")


def run_differs(asked: Asked, *, show_all: bool, as_json: bool) -> int:
    """Print the ranking; return the exit code."""
    _check(asked)
    with open_log(asked) as (log, replicas):
        found = differs_of(log, FindingsReader(log).read(), replicas, asked)
    console = Console()
    if as_json:
        console.file.write(json.dumps(form_of(found), ensure_ascii=False) + "\n")
    else:
        _print(found, console if console.is_terminal else Console(width=PLAIN_WIDTH), show_all)
    is_undecided = found.findings and all(one.has_few for one in found.populations)
    return 3 if is_undecided else 0


def form_of(found: Differs) -> dict[str, Any]:
    """Return the JSON form."""
    form: dict[str, Any] = msgspec.to_builtins(found)
    for population, form_of_population in zip(found.populations, form["populations"], strict=True):
        for one, ranked in zip(population.ranked, form_of_population["ranked"], strict=True):
            ranked["share_divergent"] = one.share_divergent
            ranked["share_rest"] = one.share_rest
    return form


def _print(found: Differs, console: Console, show_all: bool) -> None:
    console.print(
        f"{found.findings} findings, {found.events:,} events read"
        + (f"; {found.unlocated} findings name neither event nor key" * bool(found.unlocated)),
        highlight=False,
    )
    for population in found.populations:
        console.print(_headline(population), highlight=False)
        shown = [one for one in population.ranked if show_all or one.explained_by is None]
        if shown:
            console.print(_table(shown))
        hidden = len(population.ranked) - len(shown)
        if hidden:
            text = f"{hidden} more are explained by these (--all shows them)"
            console.print(text, style="dim", highlight=False)


def _headline(population: PopulationRanking) -> str:
    names = {
        "deliveries": "events that went wrong on their way to a replica",
        "keys": "stored aggregates that were changed",
        "events": "events that are wrong themselves",
    }
    text = f"{population.divergent} {names[population.population]}, against {population.rest:,}: "
    if population.not_found:
        text += f"({population.not_found} more are not in the part that was read) "
    if population.has_few:
        return text + "too few to tell"
    return text + ("they share" if population.ranked else "nothing that chance does not explain")


def _table(ranked: Sequence[Ranked]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("dimension = value", overflow="fold")
    for name in ("divergent", "rest", "lift", "q"):
        table.add_column(name, justify="right")
    for one in ranked:
        told = " and ".join(f"{c.dimension} = {c.value}" for c in one.conditions)
        table.add_row(
            told,
            f"{one.share_divergent:.0%}",
            f"{one.share_rest:.1%}",
            f"{one.lift:.1f}",
            f"{one.q_value:.1g}",
        )
    return table
