"""What anybody may have written is passed over, whatever msgspec raises for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pipeline.event_store_memory import MemoryEventStore
from pipeline.log_memory import MemoryLog
from service.differs_running import own_dimension
from service.embedded import RunLedger, decode_ledger
from synchroscope.foreign import MAXIMUM_NAMED, PassedOver, decoded
from synchroscope.ports import EVENTS, STATE, NewRecord
from synchroscope.session_report import decode_session_report
from synchroscope.tally import decode_tally
from validator.finding import finding_in
from validator.hop_books import head_of
from validator.hop_standing import decode_hop_standing
from validator.refused import producer_of
from validator.schemas.checker import CONSUMER, SchemaChecker
from validator.schemas.checker import decode_standing as decode_schemas
from validator.schemas.registry_log import PREFIX, Change, LogRegistry, Registered
from validator.sessions import CHECKPOINT_KEY, SessionChecker
from validator.standing import decode_standing

JSON = [b"", b"{", b"\xff", b'{"\xff": 1}', b'"\xff"', b"[" * 100_000, b"null"]
MSGPACK = [
    b"",
    b"\xc1",
    b"\xa1\xff",
    b"\x81\xa9latencies\x81\xa1\xff\x01",
    b"\x91" * 100_000,
    b"\xc0",
]


@pytest.mark.parametrize("data", JSON)
@pytest.mark.parametrize(
    "decode",
    [
        decode_standing,
        decode_hop_standing,
        decode_schemas,
        decode_session_report,
        decode_tally,
        finding_in,
        head_of,
        producer_of,
    ],
)
def test_json_that_says_nothing_is_none(decode: Callable[[bytes], Any], data: bytes) -> None:
    assert decode(data) is None


@pytest.mark.parametrize("data", MSGPACK)
def test_a_checkpoint_that_cannot_be_decoded_is_none(data: bytes) -> None:
    log = MemoryLog({EVENTS: 1})
    for key in (CHECKPOINT_KEY, CONSUMER.encode(), b"run"):
        log.append([NewRecord(STATE, 0, key, data)], 1.0)
    assert SessionChecker(log, MemoryEventStore()).step(2.0).consumed == 0
    assert SchemaChecker(log, LogRegistry(log)).step(2.0).consumed == 0
    assert decoded(decode_ledger, data) is None


def test_latencies_that_no_run_leaves_are_refused() -> None:
    ledger = RunLedger({"scorer@1": ([], 0.0)}, 1.0, 3)
    data = msgspec.msgpack.encode(ledger)
    assert decoded(decode_ledger, data) == ledger
    wrong = data.replace(b"\x90\xcb" + bytes(8), b"\x93\x01\x02\x03\xcb" + bytes(8))
    assert wrong != data
    assert decoded(decode_ledger, wrong) is None


def test_a_schema_that_is_no_json_is_not_registered() -> None:
    log = MemoryLog({EVENTS: 1})
    forged = Change(1, "t", 1.0, "x", Registered("s", 1, 1, "{"))
    for value in (*JSON, msgspec.json.encode(forged)):
        log.append([NewRecord(STATE, 0, f"{PREFIX}1/x".encode(), value)], 1.0)
    registry = LogRegistry(log)
    assert registry.subjects(2.0) == []
    assert registry.register("s", '{"type": "object"}', 2.0) == 1


def test_an_own_dimension_of_what_is_no_json_has_no_value() -> None:
    _, read = own_dimension("region=$.a")
    assert read(b'{"a": "x"}') == ("x",)
    assert [read(data) for data in JSON] == [()] * len(JSON)


def test_each_key_is_named_once_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    passed_over = PassedOver(STATE)
    for number in range(2 * MAXIMUM_NAMED):
        passed_over.note(f"key-{number}")
        passed_over.note(f"key-{number}")
    assert passed_over.total == 4 * MAXIMUM_NAMED
    assert len(caplog.messages) == MAXIMUM_NAMED
    assert "sync.state under the key 'key-0' cannot be decoded" in caplog.messages[0]
