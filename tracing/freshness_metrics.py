"""The Prometheus metrics of a model's reads, for the registry of that model's process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from synchroscope.context_reader import SOURCES, ContextReader
from synchroscope.freshness import Label

READS = "synchroscope_context_reads_total"
DEGRADED = "synchroscope_context_degraded_reads_total"
FRESHNESS_METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    READS: ("Reads by label and by where the context came from.", ("replica", "label", "source")),
    DEGRADED: ("Reads that were not proven fresh.", ("replica",)),
}


class ContextReaderCollector(Collector):
    """Exposes a reader at the moment of the scrape.

    Parameters
    ----------
    reader, replica: The reader, and the replica that it reads.
    """

    def __init__(self, reader: ContextReader, replica: str) -> None:
        self._reader = reader
        self._replica = replica

    def collect(self) -> Iterator[Metric]:
        """Yield both counters."""
        counts = self._reader.reads()
        reads, degraded = (
            CounterMetricFamily(name, text, labels=labels)
            for name, (text, labels) in FRESHNESS_METRICS.items()
        )
        for label in Label:
            for source in SOURCES:
                number = counts.get((label, source), 0)
                reads.add_metric((self._replica, label.value, source), number)
        total = sum(number for (label, _), number in counts.items() if label is not Label.FRESH)
        degraded.add_metric((self._replica,), total)
        yield reads
        yield degraded
