"""Which tables and functions a schema has after all migrations, and what to do where one is gone.

What the event store holds is nowhere else: a table of it that is gone is a loss, which is told and
never covered up by an empty one. What replicas hold comes from the log, so their tables are made
anew. A table that lacks a column may hold the rest, and is left to who knows why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

EVENT_STORE: Mapping[str, tuple[str, ...]] = {
    "marks": ("name", "value"),
    "events": (
        "position", "context_type", "subject", "sequence", "event_id", "timestamp", "recorded",
        "correlation_id", "data",
    ),
    "aggregates": ("hash", "context_type", "subject", "sequence", "next_due", "state"),
    "dead_letters": ("position", "reason", "detail", "source", "data", "recorded"),
    "dead_letter_counts": ("reason", "total"),
    "tracking": ("source", "progress"),
    "counters": ("name", "total"),
}  # fmt: skip
"""Its tables with their columns."""
REPLICAS: Mapping[str, tuple[str, ...]] = {
    "replica_lives": ("replica", "incarnation"),
    "replica_aggregates": (
        "replica", "context_type", "subject", "partition", "hash", "sequence", "fields", "missing",
    ),
    "replica_partitions": ("replica", "partition", "version", "state"),
    "replica_journal": (
        "replica", "partition", "number", "start_position", "end_position", "data",
    ),
}  # fmt: skip
FUNCTIONS = ("make_partitions", "append", "replica_begin", "replica_commit")
LOCATING_ONLY = "replica_journal"
"""Its entries only locate findings: replicas go on without them."""

WHAT_IS_THERE = """
    SELECT relname::text, attname::text FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
    WHERE relnamespace = to_regnamespace(%s) AND relkind IN ('r', 'p')
        AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT proname::text, NULL FROM pg_proc WHERE pronamespace = to_regnamespace(%s)
"""
"""Table and column, function and NULL; of a schema, to be named twice."""
_COMMENT = re.compile("^--.*$", re.MULTILINE)
_STATEMENT = re.compile(r"(?:\$\$.*?\$\$|[^;])+;", re.DOTALL)
_OBJECT = re.compile(
    r"\s*(?:CREATE TABLE|CREATE FUNCTION|ALTER TABLE|INSERT INTO|"
    r"CREATE (?:UNIQUE )?INDEX \w+ ON) (\w+)"
)


class Gap(Struct, frozen=True):
    """What a schema lacks: tables and functions, and columns of tables that are there."""

    tables: tuple[str, ...]
    functions: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]

    @property
    def is_closable(self) -> bool:
        """Whether something is gone, and all of that can be made anew."""
        return bool(self.tables or self.functions) and not self.remedy

    @property
    def told(self) -> str:
        """What is gone; empty where nothing is."""
        parts = [_named("column", names, f" of {name}") for name, names in self.columns.items()]
        parts += [_named("table", self.tables), _named("function", self.functions)]
        return ", ".join(filter(None, parts))

    @property
    def remedy(self) -> str:
        """What only the operator can do; empty where there is nothing like that."""
        if any(name in EVENT_STORE for name in (*self.tables, *self.columns)):
            return (
                "what the event store had there is lost: stop all processes and restore the schema "
                "from a backup; or, to begin with nothing, drop the schema and the topics and run "
                "`synchroscope prepare --config FILE`"
            )
        if self.columns:
            return (
                "drop that table and run `synchroscope prepare --config FILE`: the replicas are "
                "built again from the log"
            )
        return ""


def gap_of(rows: Iterable[tuple[str, str | None]]) -> Gap:
    """Return what a schema lacks in which `WHAT_IS_THERE` found these rows."""
    found: dict[str, set[str | None]] = {}
    for name, column in rows:
        found.setdefault(name, set()).add(column)
    wanted = {**EVENT_STORE, **REPLICAS}
    lacking = {
        name: tuple(column for column in columns if column not in found[name])
        for name, columns in wanted.items()
        if name in found
    }
    return Gap(
        tuple(name for name in wanted if name not in found),
        tuple(name for name in FUNCTIONS if None not in found.get(name, ())),
        {name: columns for name, columns in lacking.items() if columns},
    )


def statements_for(gap: Gap, migrations: Sequence[str]) -> list[str]:
    """Return the statements that close a gap; none where that is for the operator.

    Replicas begin anew where what is left of them is worth nothing without what is gone.
    """
    if not gap.is_closable:
        return []
    wanted = {*gap.tables, *gap.functions}
    found = [
        statement.strip()
        for text in migrations
        for statement in _STATEMENT.findall(_COMMENT.sub("", text))
        if (made := _OBJECT.match(statement)) and made[1] in wanted
    ]
    if set(gap.tables) - {LOCATING_ONLY}:
        found.append("DELETE FROM replica_lives")
    return found


def _named(what: str, names: Sequence[str], of: str = "") -> str:
    """Return a list of names with its verb.

    >>> _named("table", ["a"]), _named("column", ["a", "b"], " of t"), _named("table", [])
    ('table a is gone', 'columns a, b of t are gone', '')
    """
    if not names:
        return ""
    many = len(names) > 1
    return f"{what}{'s' * many} {', '.join(names)}{of} {'are' if many else 'is'} gone"
