"""What a model's process exposes of its context cache."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from pipeline.log_memory import MemoryLog
from synchroscope.context_cache import ContextCache
from synchroscope.memory_storage import MemoryStorage
from synchroscope.ports import EVENTS
from tests.builders import VIEW
from tracing.cache_metrics import CACHE_METRICS, ContextCacheCollector

LABELS = {"replica": "scorer@1"}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_hits_misses_and_their_ratio_are_exposed_and_nothing_before_the_first_read() -> None:
    cache = ContextCache(MemoryStorage(), MemoryLog({EVENTS: 1}), VIEW, lambda kind, subject: 0)
    registry = CollectorRegistry()
    registry.register(ContextCacheCollector(cache, "scorer@1"))
    assert registry.get_sample_value("synchroscope_context_cache_hit_ratio", LABELS) is None
    cache.step(1.0)
    for _ in range(4):
        cache.get("user:1", "financial")
    read = registry.get_sample_value
    assert read("synchroscope_context_cache_hits_total", LABELS) == cache.hits
    assert read("synchroscope_context_cache_misses_total", LABELS) == cache.misses > 0
    assert read("synchroscope_context_cache_hit_ratio", LABELS) == cache.hit_rate
    assert read("synchroscope_context_cache_following", LABELS) == float(cache.is_following)


def test_every_metric_of_the_cache_is_documented() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in CACHE_METRICS)
