"""The Prometheus metrics of attached mode, made at scrape time from its last report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tracing.metrics import VERDICTS

_G, _C = GaugeMetricFamily, CounterMetricFamily
ATTACHED_METRICS: Mapping[
    str, tuple[type[GaugeMetricFamily] | type[CounterMetricFamily], str, tuple[str, ...]]
] = {
    "synchroscope_attached_records_total": (_C, "Records of the topic that were folded.", ()),
    "synchroscope_attached_unreadable_records_total": (
        _C,
        "Records of which no change could be made.",
        ("reason",),
    ),
    "synchroscope_attached_keys": (_G, "Keys of the reference, deleted ones too.", ()),
    "synchroscope_attached_log_lag_events": (_G, "Records that are not folded yet.", ()),
    "synchroscope_attached_verdict": (
        _G,
        "1 for the verdict that holds, 0 for the others.",
        ("store", "verdict"),
    ),
    "synchroscope_attached_lag_events": (
        _G,
        "Records between the first event that the store lacks and the fold.",
        ("store",),
    ),
    "synchroscope_attached_looked_writes_total": (
        _C,
        "Writes that were looked for at a horizon.",
        ("store", "horizon_seconds"),
    ),
    "synchroscope_attached_consistent_writes_total": (
        _C,
        "Writes that were there at a horizon.",
        ("store", "horizon_seconds"),
    ),
    "synchroscope_attached_skipped_writes_total": (
        _C,
        "Writes that were not looked for at a horizon, for lack of budget.",
        ("store", "horizon_seconds"),
    ),
    "synchroscope_attached_looks_total": (_C, "Rows compared, by result.", ("store", "result")),
    "synchroscope_attached_rows_read_total": (_C, "Rows read.", ("store",)),
    "synchroscope_attached_answer_timestamp_seconds": (
        _G,
        "When the store answered last; absent before the first time.",
        ("store",),
    ),
    "synchroscope_attached_whole_walk_timestamp_seconds": (
        _G,
        "When the last whole walk began; absent before the first.",
        ("store",),
    ),
    "synchroscope_attached_whole_walk_rows": (_G, "Rows of the last whole walk.", ("store",)),
    "synchroscope_attached_suspects": (_G, "Keys that are being read again.", ("store",)),
    "synchroscope_attached_open_findings": (_G, "Findings that are open.", ("store",)),
    "synchroscope_attached_findings_total": (_C, "Findings ever opened.", ("store", "kind")),
}
Samples = list[tuple[tuple[str, ...], float]]


class AttachedCollector(Collector):
    """Exposes the report that `report` returns at the moment of the scrape."""

    def __init__(self, report: Callable[[], dict[str, Any] | None]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """Yield every metric that is known."""
        found = self._report()
        samples = {} if found is None else _samples(found)
        for name, (kind, text, labels) in ATTACHED_METRICS.items():
            family = kind(name, text, labels=labels)
            for values, number in samples.get(name, []):
                family.add_metric(values, number)
            yield family


def _samples(report: dict[str, Any]) -> dict[str, Samples]:
    log, stores = report["log"], report["stores"]

    def each(pick: Callable[[dict[str, Any]], float | None]) -> Samples:
        found = ((name, pick(store)) for name, store in stores.items())
        return [((name,), number) for name, number in found if number is not None]

    def horizons(key: str) -> Samples:
        return [
            ((name, f"{horizon['seconds']:g}"), horizon[key])
            for name, store in stores.items()
            for horizon in store["horizons"]
        ]

    def labelled(key: str) -> Samples:
        return [
            ((name, label), number)
            for name, store in stores.items()
            for label, number in store[key].items()
        ]

    def walked_at(store: dict[str, Any]) -> float | None:
        age = store["walk_age_seconds"]
        return None if age is None else report["at"] - age

    prefix = "synchroscope_attached_"
    found: dict[str, Samples] = {
        "records_total": [((), log["records"])],
        "unreadable_records_total": [((r,), n) for r, n in log["unreadable"].items()],
        "keys": [((), log["keys"])],
        "log_lag_events": [((), log["behind"])],
        "verdict": [
            ((name, verdict), float(store["verdict"] == verdict))
            for name, store in stores.items()
            for verdict in VERDICTS
        ],
        "lag_events": each(lambda store: store["lag_events"]),
        "looked_writes_total": horizons("looked"),
        "consistent_writes_total": horizons("consistent"),
        "skipped_writes_total": horizons("skipped"),
        "looks_total": labelled("looks"),
        "rows_read_total": each(lambda store: store["rows_read"]),
        "answer_timestamp_seconds": each(lambda store: store["answered_at"]),
        "whole_walk_timestamp_seconds": each(walked_at),
        "whole_walk_rows": each(lambda store: store["walk_rows"]),
        "suspects": each(lambda store: store["suspects"]),
        "open_findings": each(lambda store: store["open_findings"]),
        "findings_total": labelled("findings"),
    }
    return {prefix + name: samples for name, samples in found.items()}
