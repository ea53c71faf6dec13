from __future__ import annotations

import csv
import datetime as dt
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import examples.retail
from examples.retail.rows import COLUMNS, MAXIMUM_LINE_BYTES, Row, read_rows
from examples.retail.sale import Rejected, Sale, read_sale
from examples.retail.stream import RetailProducer, retail_files, total_rows
from examples.retail.views import RULES, VIEWS
from pipeline.commands import CommandSide
from pipeline.event_store import Append, EventStore
from pipeline.event_store_memory import MemoryEventStore
from pipeline.event_store_sqlite import SqliteEventStore
from pipeline.sqlite_database import SqliteDatabase
from synchroscope.errors import ConfigurationError, StorageError
from synchroscope.event import EXPIRED, ContextEvent, decode_event, encode_event

DATA = Path(examples.retail.__file__).parent / "data"
SHIPPED_ROWS = 7_419
HEADER = ",".join(COLUMNS)
SALE = "536365,85123A,LANTERN,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom"


def line(**changes: str) -> str:
    """Return the sale's line with some columns changed."""
    fields = dict(zip(COLUMNS, SALE.split(","), strict=True))
    return ",".join({**fields, **changes}.values())


def write(folder: Path, *lines: str | bytes, name: str = "a.csv", header: str = HEADER) -> Path:
    data = [text if isinstance(text, bytes) else text.encode() for text in (header, *lines)]
    (folder / name).write_bytes(b"\n".join(data) + b"\n")
    return folder


def produce(
    folder: Path, store: EventStore, batch_rows: int = 200, steps: int = 1_000_000, **how: Any
) -> RetailProducer:
    side = CommandSide(store, RULES)
    producer = RetailProducer(folder, side, store, batch_rows=batch_rows, **how)
    while not producer.done and steps:
        producer.step(1e9)
        steps -= 1
    return producer


def stored(store: EventStore) -> list[ContextEvent]:
    return [entry.event for entry in store.read(0, 1_000_000)]


def updates(store: EventStore) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (
            event.context_type,
            event.subject,
            {name: update.current for name, update in event.context_delta.updates.items()},
        )
        for event in stored(store)
    ]


def letters(store: EventStore) -> list[tuple[str, str, str, bytes]]:
    return [
        (entry.letter.reason, entry.letter.detail, entry.letter.source, entry.letter.data)
        for entry in store.read_dead_letters(0, 1_000_000)
    ]


def parse(data: str | bytes) -> Sale | Rejected:
    raw = data.encode() if isinstance(data, str) else data
    return read_sale(Row("a.csv", 2, raw, len(COLUMNS), range(len(COLUMNS))))


# -- one line -----------------------------------------------------------------------------------


def test_a_sale_says_what_its_line_says() -> None:
    time = dt.datetime(2010, 12, 1, 8, 26, tzinfo=dt.UTC)
    expected = Sale("536365", "85123A", 6, time, Decimal("2.55"), "17850", "United Kingdom")
    assert parse(SALE) == expected


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (line(Description='"LANTERN'), "not CSV: unexpected end of data"),
        (line(Description='"LAN"TERN'), "not CSV: ',' expected after '\"'"),
        (line(Description="LAN\rTERN"), "not CSV: new-line character"),
        (line() + ",more", "9 columns, 8 expected"),
        ("536365,85123A", "2 columns, 8 expected"),
        (b"\xff" + line().encode(), "not UTF-8 at byte 0"),
        (line().encode("utf-16"), "NUL at byte"),
        (line(StockCode="8\x005"), "NUL at byte 8"),
        (line(InvoiceNo=" "), "InvoiceNo is empty"),
        (line(StockCode=""), "StockCode is empty"),
        (line(InvoiceNo="5" * 101), "InvoiceNo has 101 characters"),
        (line(CustomerID="5" * 101), "CustomerID has 101 characters"),
        (line(Country="5" * 101), "Country has 101 characters"),
        (line(Quantity=""), "Quantity is no number: ''"),
        (line(Quantity="six"), "Quantity is no number: 'six'"),
        (line(Quantity="nan"), "Quantity is no number"),
        (line(Quantity="inf"), "Quantity is no number"),
        (line(Quantity="1_000"), "Quantity is no number"),
        (line(Quantity="٣"), "Quantity is no number"),
        (line(Quantity="1.5"), "Quantity is no whole number: 1.5"),
        (line(Quantity="1e-999"), "Quantity is no whole number"),
        (line(Quantity="9" * 20), "Quantity is beyond 1000000"),
        (line(Quantity="9" * 5_000), "Quantity is no number"),
        (line(UnitPrice=""), "UnitPrice is no number"),
        (line(UnitPrice="NaN"), "UnitPrice is no number"),
        (line(UnitPrice="-Infinity"), "UnitPrice is no number"),
        (line(UnitPrice="1e999"), "UnitPrice is beyond 1000000"),
        (line(UnitPrice="2,55"), "9 columns, 8 expected"),
        (line(InvoiceDate=""), "InvoiceDate is no date and time"),
        (line(InvoiceDate="01/12/2010 08:26"), "InvoiceDate is no date and time"),
        (line(InvoiceDate="2010-12-01"), "InvoiceDate is no date and time"),
        (line(InvoiceDate="2010-13-01 08:26:00"), "month must be in 1..12"),
        (line(InvoiceDate="2010-02-30 08:26:00"), "day is out of range"),
        (line(InvoiceDate="0001-01-01 00:00:00"), "InvoiceDate is not between"),
        (line(InvoiceDate="9999-12-31 23:59:59"), "InvoiceDate is not between"),
    ],
)
def test_a_broken_row_is_refused_with_what_exactly_is_wrong(data: str | bytes, detail: str) -> None:
    result = parse(data)
    assert isinstance(result, Rejected)
    assert result.reason == "broken row"
    assert detail in result.detail
    assert len(result.detail) < 300


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"CustomerID": "", "UnitPrice": "0.0"}, "stock adjustment"),
        ({"CustomerID": "", "UnitPrice": "-0.0"}, "stock adjustment"),
        ({"CustomerID": "", "UnitPrice": "0", "Quantity": "-3"}, "stock adjustment"),
        ({"Quantity": "-3"}, "stock adjustment"),
        ({"UnitPrice": "-11062.06", "CustomerID": "", "Quantity": "1"}, "bad debt adjustment"),
        ({"UnitPrice": "-0.01"}, "bad debt adjustment"),
        ({"Quantity": "0"}, "no quantity"),
        ({"UnitPrice": "0.0"}, ""),
        ({"CustomerID": ""}, ""),
        ({"InvoiceNo": "C536379", "Quantity": "-1"}, ""),
        ({"Quantity": "80995"}, ""),
        ({"Quantity": "6.0", "UnitPrice": "1e-3"}, ""),
        ({"InvoiceDate": "2010-12-01T08:26"}, ""),
        ({"Country": ""}, ""),
        ({"Description": '"RECORD FRAME 7"" SINGLE, SIZE "'}, ""),
    ],
)
def test_a_row_that_is_no_sale_is_named_for_what_it_is(
    changes: dict[str, str], reason: str
) -> None:
    result = parse(line(**changes))
    assert (result.reason if isinstance(result, Rejected) else "") == reason


@pytest.mark.parametrize(
    ("text", "customer"),
    [("17850.0", "17850"), ("17850", "17850"), (" A-1 ", "A-1"), ("1.5", "1.5"), ("", None)],
)
def test_a_customer_number_is_read_without_its_point(text: str, customer: str | None) -> None:
    result = parse(line(CustomerID=text))
    assert isinstance(result, Sale)
    assert result.customer == customer


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail(data: bytes) -> None:
    assert isinstance(parse(data), Sale | Rejected)


# -- files --------------------------------------------------------------------------------------


def test_every_physical_line_is_a_row_and_blank_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b"\r\nx\r\n\r\n  \ny")
    (tmp_path / "a.CSV").write_text(HEADER + '\n"open\nclosed"\n')
    (tmp_path / "c.txt").write_text("no data")
    files = retail_files(tmp_path)
    rows = [(row.position, row.data) for row in read_rows(files)]
    assert rows == [
        ("a.CSV:2", b'"open'),
        ("a.CSV:3", b'closed"'),
        ("b.csv:2", b"x"),
        ("b.csv:5", b"y"),
    ]
    assert total_rows(files) == 4


def test_columns_may_stand_in_any_order_among_others(tmp_path: Path) -> None:
    names = ["Extra", *reversed(COLUMNS)]
    write(tmp_path, ",".join(["?", *reversed(SALE.split(","))]), header=",".join(names))
    (row,) = read_rows(retail_files(tmp_path))
    assert read_sale(row) == parse(SALE)


@pytest.mark.parametrize("length", [MAXIMUM_LINE_BYTES, MAXIMUM_LINE_BYTES + 1, 10**6])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_line_is_read_up_to_its_bound(tmp_path: Path, length: int, end: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(HEADER.encode() + b"\n" + b"x" * length + end)
    (row,) = read_rows(retail_files(tmp_path))
    assert len(row.data) == min(length, MAXIMUM_LINE_BYTES)
    result = read_sale(row)
    assert isinstance(result, Rejected)
    assert ("longer than" in result.detail) == (length > MAXIMUM_LINE_BYTES)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("", "InvoiceNo, StockCode"),
        (HEADER.replace("Quantity", "Amount"), "once: Quantity"),
        (HEADER + ",Country", "once: Country"),
        ('"InvoiceNo', "no CSV header"),
    ],
)
def test_a_header_without_a_column_is_a_configuration_error(
    tmp_path: Path, header: str, said: str
) -> None:
    write(tmp_path, SALE, header=header)
    with pytest.raises(ConfigurationError, match=said):
        produce(tmp_path, MemoryEventStore())


def test_a_folder_without_data_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no CSV files"):
        produce(tmp_path, MemoryEventStore())
    with pytest.raises(ConfigurationError, match="no folder"):
        produce(tmp_path / "nowhere", MemoryEventStore())
    (tmp_path / "a.csv").write_bytes("ÄÖ".encode("utf-16"))
    with pytest.raises(ConfigurationError, match="no CSV header"):
        produce(tmp_path, MemoryEventStore())


def test_reading_goes_on_only_where_the_files_are_as_they_were(tmp_path: Path) -> None:
    store = MemoryEventStore()
    write(tmp_path, SALE, SALE, SALE, name="b.csv")
    produce(tmp_path, store)
    assert store.tracking("retail") == "b.csv:4"
    write(tmp_path, SALE, name="c.csv")
    assert produce(tmp_path, store).rows_read == 4
    write(tmp_path, name="c.csv")
    with pytest.raises(ConfigurationError, match="has only 1 lines"):
        produce(tmp_path, store)
    (tmp_path / "c.csv").unlink()
    with pytest.raises(ConfigurationError, match=r"c\.csv:2, but that file is not among b\.csv"):
        produce(tmp_path, store)


# -- events -------------------------------------------------------------------------------------


def test_a_customers_sale_makes_three_events_for_the_models_they_concern(tmp_path: Path) -> None:
    store = MemoryEventStore()
    produce(write(tmp_path, SALE), store)
    basket = {"invoice": "536365", "lines": 1, "units": 6}
    assert updates(store) == [
        (
            "behavioural",
            "user:17850",
            {"last_product": "85123A", "products_seen": ["85123A"], "basket": basket},
        ),
        (
            "financial",
            "user:17850",
            {"basket_invoice": "536365", "basket_value": 15.3, "spend": 15.3, "cancellations": 0},
        ),
        ("geographic", "user:17850", {"country": "United Kingdom"}),
    ]
    rules = [event.propagation_rules for event in stored(store)]
    assert [rule.target_models for rule in rules] == [
        ("recommender", "fraud-scorer", "offer-pricer"),
        ("fraud-scorer", "offer-pricer", "compliance-checker"),
        None,
    ]
    assert [rule.ttl for rule in rules] == [3600, None, None]
    for event in stored(store):
        assert event.correlation_id == "536365-2"
        assert event.context_delta.session_id == "536365"
        assert event.source.instance_id == "till-2"
        assert event.timestamp == dt.datetime(2010, 12, 1, 8, 26, tzinfo=dt.UTC)


def test_a_second_line_adds_to_the_basket_and_a_new_invoice_starts_another(
    tmp_path: Path,
) -> None:
    store = MemoryEventStore()
    produce(
        write(
            tmp_path,
            SALE,
            line(StockCode="B", Quantity="2", UnitPrice="0.0333"),
            line(InvoiceNo="536366", UnitPrice="1", Quantity="1"),
        ),
        store,
    )
    baskets = [u["basket"] for kind, _, u in updates(store) if kind == "behavioural"]
    assert baskets[1:] == [
        {"invoice": "536365", "lines": 2, "units": 8},
        {"invoice": "536366", "lines": 1, "units": 1},
    ]
    money = [u for kind, _, u in updates(store) if kind == "financial"]
    assert [u["basket_value"] for u in money] == [15.3, 15.3666, 1.0]
    assert [u["spend"] for u in money] == [15.3, 15.3666, 16.3666]
    assert [kind for kind, _, _ in updates(store)].count("geographic") == 1


def test_the_last_ten_distinct_products_are_remembered_newest_last(tmp_path: Path) -> None:
    store = MemoryEventStore()
    codes = [*"abcdefghijkl", "d"]
    produce(write(tmp_path, *(line(StockCode=code) for code in codes)), store)
    assert store.state(("behavioural", "user:17850")).values()["products_seen"] == [*"cefghijkld"]


def test_a_cancellation_is_financial_urgent_and_for_two_models(tmp_path: Path) -> None:
    store = MemoryEventStore()
    cancelled = line(InvoiceNo="C536379", Quantity="-10")
    produce(write(tmp_path, SALE, cancelled, line(UnitPrice="1"), cancelled), store)
    money = [event for event in stored(store) if event.context_type == "financial"]
    values = [u for kind, _, u in updates(store) if kind == "financial"]
    assert [u["spend"] for u in values] == [15.3, -10.2, -4.2, -29.7]
    assert [u["cancellations"] for u in values] == [0, 1, 1, 2]
    assert values[1] == {"spend": -10.2, "cancellations": 1}
    both = ("fraud-scorer", "compliance-checker")
    assert [event.propagation_rules.target_models for event in money[1:]] == [both] * 3
    assert [event.propagation_rules.priority for event in money] == ["normal", "high"] * 2
    assert [kind for kind, _, _ in updates(store)].count("behavioural") == 2


def test_an_amount_that_rounds_to_nothing_is_a_plain_zero(tmp_path: Path) -> None:
    store = MemoryEventStore()
    produce(write(tmp_path, line(InvoiceNo="C1", Quantity="-1", UnitPrice="1e-5")), store)
    assert repr(store.state(("financial", "user:17850")).values()["spend"]) == "0.0"


def test_who_has_no_customer_number_is_known_by_the_invoice(tmp_path: Path) -> None:
    store = MemoryEventStore()
    produce(write(tmp_path, line(CustomerID="", Country="")), store)
    assert [(kind, subject) for kind, subject, _ in updates(store)] == [
        ("behavioural", "session:536365"),
        ("financial", "session:536365"),
    ]


def test_what_a_customer_looked_at_is_forgotten_after_an_hour(tmp_path: Path) -> None:
    store = MemoryEventStore()
    later = line(StockCode="B", InvoiceDate="2010-12-01 09:26:00")
    produce(write(tmp_path, SALE, later), store)
    assert [event.event_type == EXPIRED for event in stored(store)] == [False] * 3 + [
        True,
        False,
        False,
    ]
    values = store.state(("behavioural", "user:17850")).values()
    assert values["products_seen"] == ["B"]
    money = store.state(("financial", "user:17850")).values()
    assert money["basket_value"] == 30.6


def test_a_row_is_handled_or_kept_with_its_bytes_and_place(tmp_path: Path) -> None:
    store = MemoryEventStore()
    write(tmp_path, SALE, b"\xff\r", line(Quantity="0"), "", SALE)
    producer = produce(tmp_path, store)
    assert letters(store) == [
        ("broken row", "not UTF-8 at byte 0: invalid start byte", "a.csv:3", b"\xff"),
        ("no quantity", "invoice 536365 has quantity 0", "a.csv:4", line(Quantity="0").encode()),
    ]
    assert (producer.rows_read, store.counter("rows_read")) == (4, 4)
    assert store.tracking("retail") == "a.csv:6"


# -- the whole stream ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole() -> MemoryEventStore:
    store = MemoryEventStore()
    produce(DATA, store)
    return store


def test_every_shipped_row_is_accounted_for(whole: MemoryEventStore) -> None:
    rows = list(read_rows(retail_files(DATA)))
    assert total_rows(retail_files(DATA)) == len(rows) == SHIPPED_ROWS
    assert whole.counter("rows_read") == SHIPPED_ROWS
    handled = {e.correlation_id for e in stored(whole) if e.event_type != EXPIRED}
    refused = [source for _, _, source, _ in letters(whole)]
    assert len(set(refused)) == len(refused)
    assert len(handled) + len(refused) == SHIPPED_ROWS
    assert set(whole.dead_letter_counts()) == {"stock adjustment"}


def test_the_shipped_rows_make_the_sums_that_the_files_say(whole: MemoryEventStore) -> None:
    spend: Counter[str] = Counter()
    cancelled: Counter[str] = Counter()
    for path in DATA.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                customer = row["CustomerID"].removesuffix(".0")
                subject = f"user:{customer}" if customer else f"session:{row['InvoiceNo']}"
                pence = int(Decimal(row["UnitPrice"]) * 10_000) * int(row["Quantity"])
                if customer or pence:
                    spend[subject] += pence
                    cancelled[subject] += row["InvoiceNo"].startswith("C")
    for subject, pence in spend.items():
        values = whole.state(("financial", subject)).values()
        assert round(values["spend"] * 10_000) == pence
        assert values["cancellations"] == cancelled[subject]
    assert whole.dead_letter_counts()["stock adjustment"] > 0


def test_every_event_is_valid_at_the_border_again(whole: MemoryEventStore) -> None:
    for event in stored(whole):
        assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize("batch_rows", [1, 7, 1_000, 100_000])
def test_the_same_rows_make_the_same_events_whatever_the_batches(
    whole: MemoryEventStore, batch_rows: int
) -> None:
    store = MemoryEventStore()
    produce(DATA, store, batch_rows)
    assert stored(store) == stored(whole)
    assert letters(store) == letters(whole)


class DyingStore(SqliteEventStore):
    """Raises before or after every few appends, as a process that is killed."""

    def __init__(self, database: SqliteDatabase, every: Sequence[int]) -> None:
        super().__init__(database)
        self._every = every
        self._appends = 0

    def append(self, write: Append, now: float) -> None:
        self._appends += 1
        if self._appends % self._every[0] == 0:
            raise StorageError("killed before")
        super().append(write, now)
        if self._appends % self._every[1] == 0:
            raise StorageError("killed after")


def test_a_producer_that_is_killed_again_and_again_loses_and_doubles_nothing(
    whole: MemoryEventStore, tmp_path: Path
) -> None:
    database = SqliteDatabase(tmp_path / "store.db")
    store = DyingStore(database, [5, 7])
    kills = 0
    while True:
        try:
            producer = produce(DATA, store, 97)
            break
        except StorageError:
            kills += 1
    assert kills > 10
    assert producer.rows_read == SHIPPED_ROWS
    assert stored(store) == stored(whole)
    assert letters(store) == letters(whole)
    database.close()


def test_a_failed_step_can_be_tried_again_by_the_same_producer(tmp_path: Path) -> None:
    database = SqliteDatabase(":memory:")
    store = DyingStore(database, [2, 1_000])
    producer = RetailProducer(
        write(tmp_path, *[SALE] * 9), CommandSide(store, RULES), store, batch_rows=2
    )
    failures = 0
    while not producer.done:
        try:
            producer.step(0.0)
        except StorageError:
            failures += 1
    assert failures == 4
    assert (producer.rows_read, store.counter("rows_read")) == (9, 9)
    assert len({event.correlation_id for event in stored(store)}) == 9
    database.close()


texts = st.sampled_from(
    [
        SALE,
        line(StockCode="B"),
        line(InvoiceNo="C1", Quantity="-2"),
        line(InvoiceNo="2", CustomerID="7", Country="France"),
        line(InvoiceNo="3", CustomerID=""),
        line(InvoiceDate="2010-12-01 09:30:00"),
        line(InvoiceDate="2010-12-01 11:00:00", CustomerID=""),
        line(Quantity="x"),
        line(Quantity="0"),
        '"',
        "",
    ]
)


@settings(max_examples=50)
@given(st.lists(texts, max_size=30), st.integers(1, 5), st.integers(1, 5))
def test_any_rows_make_the_same_events_across_restarts(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], batch_rows: int, steps: int
) -> None:
    folder = write(tmp_path_factory.mktemp("rows"), *lines)
    one, parts = MemoryEventStore(), MemoryEventStore()
    produce(folder, one)
    while not produce(folder, parts, batch_rows, steps).done:
        pass
    assert stored(parts) == stored(one)
    assert letters(parts) == letters(one)
    handled = {e.correlation_id for e in stored(one) if e.event_type != EXPIRED}
    assert len(handled) + len(letters(one)) == one.counter("rows_read")


# -- pace ---------------------------------------------------------------------------------------


def test_rows_come_at_a_multiple_of_the_streams_own_speed(tmp_path: Path) -> None:
    times = ["08:00:00", "08:00:00", "08:01:00", "08:00:30", "", "08:02:00", "20:00:00"]
    write(tmp_path, *(line(InvoiceDate=time and f"2010-12-01 {time}") for time in times))
    store = MemoryEventStore()
    producer = RetailProducer(
        tmp_path, CommandSide(store), store, speed=120.0, maximum_pause_seconds=2.0
    )
    timeline = [
        (100.0, 2),
        (100.4, 0),
        (100.5, 3),
        (100.9, 0),
        (101.0, 1),
        (102.9, 0),
        (103.0, 1),
    ]
    assert [(now, producer.step(now).consumed) for now, _ in timeline] == timeline
    assert producer.step(103.0).consumed == 0
    assert producer.done


def test_a_paced_step_is_bounded_and_a_restart_starts_its_pace_anew(tmp_path: Path) -> None:
    days = [line(InvoiceDate=f"2010-12-0{day} 08:00:00") for day in (1, 1, 1, 2)]
    write(tmp_path, *days)
    store = MemoryEventStore()
    how: dict[str, Any] = {"speed": 1.0, "batch_rows": 2}
    producer = RetailProducer(tmp_path, CommandSide(store), store, **how)
    assert [producer.step(0.0).consumed for _ in range(3)] == [2, 1, 0]
    again = RetailProducer(tmp_path, CommandSide(store), store, **how)
    assert again.step(0.5).consumed == 1


@pytest.mark.parametrize(
    "how",
    [
        {"speed": 0.0},
        {"speed": -1.0},
        {"speed": float("nan")},
        {"speed": float("inf")},
        {"speed": 1.0, "maximum_pause_seconds": -1.0},
        {"batch_rows": 0},
    ],
)
def test_a_pace_that_cannot_be_kept_is_a_configuration_error(how: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        produce(DATA, MemoryEventStore(), **how)


# -- views --------------------------------------------------------------------------------------


def test_every_field_that_a_view_names_has_a_rule_and_public_fields_are_not_personal() -> None:
    assert [view.model for view in VIEWS] == [
        "recommender",
        "fraud-scorer",
        "offer-pricer",
        "compliance-checker",
    ]
    for view in VIEWS:
        for context_type, fields in view.fields.items():
            assert fields <= RULES[context_type].fields.keys()
    for context_type, rules in RULES.items():
        for name, rule in rules.fields.items():
            assert rule.personal != VIEWS[0].is_public(context_type, name)


def test_a_file_that_comes_before_one_already_read_is_refused_and_not_lost(tmp_path: Path) -> None:
    data = Path(examples.retail.__file__).parent / "data"
    head = (data / "2010-12-02.csv").read_bytes().splitlines(keepends=True)[:30]
    (tmp_path / "b.csv").write_bytes(b"".join(head))
    store = MemoryEventStore()
    producer = RetailProducer(tmp_path, CommandSide(store, RULES), store)
    while not producer.done:
        producer.step(0.0)
    (tmp_path / "a.csv").write_bytes(b"".join(head))

    with pytest.raises(ConfigurationError, match=r"a\.csv came after b\.csv"):
        RetailProducer(tmp_path, CommandSide(store, RULES), store)
