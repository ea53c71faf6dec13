"""Keys of a store that can be read in several ways: the reference says which one is meant."""

from __future__ import annotations

import json
from pathlib import Path

import lmdb
import pytest

from tests.attached_world import SETTINGS
from validator.attached.book import Book
from validator.attached.checker import StoreChecker
from validator.attached.port import MemoryTopic
from validator.attached.record_mapping import RecordMapping, RecordReader
from validator.attached.reference import KeyedReference
from validator.attached.row_mapping import RowMapping, RowReader
from validator.attached.validator import AttachedValidator
from validator.stores.opening import open_store


@pytest.mark.parametrize("template", ["{id}:{kind}", "{kind}:{id}"])
def test_a_key_is_that_of_the_subject_and_type_that_the_topic_has(
    template: str, tmp_path: Path
) -> None:
    topic = MemoryTopic()
    records = RecordMapping(subject="$.id", type="$.kind", fields={"a": "$.a"})
    environment = lmdb.open(str(tmp_path / "rows"))
    with environment.begin(write=True) as transaction:
        for number in range(5):
            user, kind = f"user:{number}", "risk" if number else "risk:high"
            event = {"id": user, "kind": kind, "a": number}
            topic.append(0, user.encode(), json.dumps(event).encode(), 1.0)
            name = template.format(id=user, kind=kind)
            transaction.put(name.encode(), json.dumps({"a": number}).encode())
        transaction.put(b"a:b:c", b"{}")
    environment.close()
    store = open_store(f"lmdb://{tmp_path}/rows?key={template}", ["id", "kind"])
    reference = KeyedReference(tmp_path / "data", "x")
    book = Book(reference)
    reader = RowReader(RowMapping(subject="id", type_column="kind"), store.key_columns)
    checker = StoreChecker(SETTINGS, 0, store, reader, reference, book, [1.0])
    validator = AttachedValidator(topic, RecordReader(records), reference, [checker], book)
    now = 1_000.0

    def clock() -> float:
        return now

    def run() -> None:
        nonlocal now
        for _ in range(400):
            now += 0.1
            validator.step(clock)

    run()
    longest_first = ("c", "a:b") if template.startswith("{id}") else ("a:b", "c")
    assert [(f.kind, f.keys) for f in book.open.values()] == [("foreign", [longest_first])]
    subject, kind = ("a", "b:c") if template.startswith("{id}") else ("b:c", "a")
    topic.append(0, b"", json.dumps({"id": subject, "kind": kind}).encode(), now)
    run()
    assert book.open == {}
    validator.close()
