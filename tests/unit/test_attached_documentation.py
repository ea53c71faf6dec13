"""What attached mode has and docs/attached.md does not say, or the reverse, fails here."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import msgspec
from msgspec import Struct

from pipeline.kafka_settings import KafkaSettings
from service.attached_configuration import AttachedConfiguration, load_attached
from service.configuration_typing import hints_of
from tracing.attached_metrics import ATTACHED_METRICS
from validator.attached.record_mapping import DeleteMapping

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "attached.md").read_text(encoding="utf-8")


def settings(kind: type[Struct] = AttachedConfiguration, path: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(kind):
        hint, place = hints_of(kind)[field.name], path + field.name
        parts = (hint, *typing.get_args(hint))
        section = next((p for p in parts if isinstance(p, type) and issubclass(p, Struct)), None)
        if section in (None, KafkaSettings, DeleteMapping):
            yield place
        else:
            assert section is not None
            yield from settings(section, f"{place}{'[]' * (typing.get_origin(hint) is list)}.")


def test_every_setting_is_documented_and_nothing_else() -> None:
    documented = re.findall(r"^\| `((?:log|record|stores\[\])\.\w+|horizons_seconds)`", PAGE, re.M)
    assert sorted(documented) == sorted(settings())


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    rows = re.findall(r"^\| `(synchroscope_\w+)` \| (\w+) \|(.*)\|$", PAGE, re.M)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", rest))) for name, kind, rest in rows}
    assert documented == {
        name: (kind.__name__.removesuffix("MetricFamily").lower(), labels)
        for name, (kind, _, labels) in ATTACHED_METRICS.items()
    }


def test_the_example_of_the_page_and_the_one_that_is_run_are_sound(tmp_path: Path) -> None:
    example = re.search(r"(?:^    .*\n)+(?=\nEverything)", PAGE, re.M)
    assert example is not None
    file = tmp_path / "attached.yaml"
    file.write_text(dedent(example[0]))
    (store,) = load_attached(file, {"REDIS_PASSWORD": "hunter2"}).stores
    assert "hunter2" in store.uri
    assert "hunter2" not in repr(store)
    shipped = load_attached(ROOT / "examples" / "attached" / "attached.yaml", {})
    assert [store.name for store in shipped.stores] == ["redis", "postgresql"]


def test_the_example_of_an_adapter_works(tmp_path: Path) -> None:
    code = re.search(r'^    """Rows in a folder.*?^            pass\n', PAGE, re.M | re.S)
    assert code is not None
    names: dict[str, typing.Any] = {}
    exec(dedent(code[0]), names)
    assert len([line for line in code[0].splitlines() if line.strip()]) <= 42
    for number in range(5):
        (tmp_path / f"u{number}.json").write_text(f'{{"a": {number}}}')
    store = names["FolderStore"](f"folder://{tmp_path}", ["id"], None)
    page = store.scan(None, 3)
    assert [key for key, _ in page.rows] == [("u0",), ("u1",), ("u2",)]
    assert store.scan(page.cursor, 3).cursor is None
    assert store.fetch([("u4",), ("nobody",)]) == {("u4",): {"a": 4}}


def test_the_injector_has_ten_kinds_and_knows_nothing_of_us() -> None:
    source = (ROOT / "examples" / "attached" / "inject.py").read_text(encoding="utf-8")
    kinds = re.search(r"^KINDS = \(\n(.*?)^\)", source, re.M | re.S)
    assert kinds is not None
    assert len(kinds[1].splitlines()) == 10
    for file in (ROOT / "examples" / "attached").glob("*.py"):
        source = file.read_text(encoding="utf-8")
        imports = re.findall(r"^(?:from|import) (\w+)", source, re.M)
        ours = {"synchroscope", "pipeline", "validator", "tracing", "chaos", "service"}
        assert not ours & set(imports), file.name
