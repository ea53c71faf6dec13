"""The Prometheus metrics of a model's context cache, for the registry of that model's process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from synchroscope.context_cache import ContextCache

CACHE_METRICS: Mapping[str, tuple[type[CounterMetricFamily] | type[GaugeMetricFamily], str]] = {
    "synchroscope_context_cache_hits_total": (
        CounterMetricFamily,
        "Reads that the process answered without asking the storage.",
    ),
    "synchroscope_context_cache_misses_total": (
        CounterMetricFamily,
        "Reads that went to the storage.",
    ),
    "synchroscope_context_cache_hit_ratio": (
        GaugeMetricFamily,
        "Share of all reads that were hits; absent before the first.",
    ),
    "synchroscope_context_cache_aggregates": (GaugeMetricFamily, "Aggregates that are kept."),
    "synchroscope_context_cache_following": (
        GaugeMetricFamily,
        "1 while the cache follows the log, 0 while every read goes to the storage.",
    ),
}


class ContextCacheCollector(Collector):
    """Exposes a cache at the moment of the scrape.

    Parameters
    ----------
    cache, replica: The cache, and the replica that it reads.
    """

    def __init__(self, cache: ContextCache, replica: str) -> None:
        self._cache = cache
        self._replica = replica

    def collect(self) -> Iterator[Metric]:
        """Yield every metric that is known."""
        cache = self._cache
        numbers: dict[str, float | None] = {
            "synchroscope_context_cache_hits_total": cache.hits,
            "synchroscope_context_cache_misses_total": cache.misses,
            "synchroscope_context_cache_hit_ratio": cache.hit_rate,
            "synchroscope_context_cache_aggregates": len(cache),
            "synchroscope_context_cache_following": float(cache.is_following),
        }
        for name, (kind, text) in CACHE_METRICS.items():
            number = numbers[name]
            family = kind(name, text, labels=("replica",))
            if number is not None:
                family.add_metric((self._replica,), number)
            yield family
