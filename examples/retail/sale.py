"""What one invoice line says, or why it says nothing that a model may use."""

from __future__ import annotations

import csv
import datetime as dt
import re
from decimal import Decimal
from functools import lru_cache

from msgspec import Struct

from examples.retail.rows import MAXIMUM_LINE_BYTES, Row
from examples.retail.views import MAXIMUM_NAME_CHARACTERS

BROKEN_ROW = "broken row"
STOCK_ADJUSTMENT = "stock adjustment"
BAD_DEBT_ADJUSTMENT = "bad debt adjustment"
NO_QUANTITY = "no quantity"

MAXIMUM_NUMBER = Decimal(1_000_000)
FIRST_YEAR, LAST_YEAR = 1970, 2199

_NUMBER = re.compile(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,3})?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?", re.ASCII)
_WHOLE_FLOAT = re.compile(r"(\d+)\.0+", re.ASCII)


class Sale(Struct, frozen=True):
    """A sold, or cancelled, invoice line. ``quantity`` is negative where goods came back."""

    invoice: str
    stock_code: str
    quantity: int
    time: dt.datetime
    price: Decimal
    customer: str | None
    country: str

    @property
    def is_cancellation(self) -> bool:
        """Cancelled invoices are numbered C…."""
        return self.invoice[:1] in ("C", "c")

    @property
    def value(self) -> Decimal:
        """What the line adds to the customer's spend."""
        return self.quantity * self.price


class Rejected(Struct, frozen=True):
    """A row that makes no event: a reason to count it by, and what exactly is the matter."""

    reason: str
    detail: str


class _BrokenError(Exception):
    """What is wrong with the row; stays inside this file."""


def read_sale(row: Row) -> Sale | Rejected:
    """Return what the row says."""
    try:
        sale = _parse(row)
    except _BrokenError as error:
        return Rejected(BROKEN_ROW, str(error))
    return _reject(sale) or sale


def _reject(sale: Sale) -> Rejected | None:
    place = f"invoice {sale.invoice}"
    if sale.customer is None and sale.price == 0:
        return Rejected(STOCK_ADJUSTMENT, f"{place} has no customer and price 0")
    if sale.quantity < 0 and not sale.is_cancellation:
        detail = f"{place} has quantity {sale.quantity} and is no cancellation"
        return Rejected(STOCK_ADJUSTMENT, detail)
    if sale.price < 0:
        return Rejected(BAD_DEBT_ADJUSTMENT, f"{place} has price {sale.price}")
    if sale.quantity == 0:
        return Rejected(NO_QUANTITY, f"{place} has quantity 0")
    return None


def _parse(row: Row) -> Sale:
    fields = _split(row)
    invoice, code, _, quantity, time, price, customer, country = (
        fields[place].strip() for place in row.places
    )
    for name, text in (("InvoiceNo", invoice), ("StockCode", code)):
        if not text:
            raise _BrokenError(f"{name} is empty")
    for name, text in (
        ("InvoiceNo", invoice),
        ("StockCode", code),
        ("CustomerID", customer),
        ("Country", country),
    ):
        if len(text) > MAXIMUM_NAME_CHARACTERS:
            raise _BrokenError(
                f"{name} has {len(text)} characters, {MAXIMUM_NAME_CHARACTERS} allowed"
            )
    whole = _WHOLE_FLOAT.fullmatch(customer)
    return Sale(
        invoice,
        code,
        _whole_number("Quantity", quantity),
        _time(time),
        _number("UnitPrice", price),
        (whole[1] if whole else customer) or None,
        country,
    )


def _split(row: Row) -> list[str]:
    if row.is_cut:
        raise _BrokenError(f"the line is longer than {MAXIMUM_LINE_BYTES} bytes")
    if b"\0" in row.data:
        raise _BrokenError(f"NUL at byte {row.data.index(0)}")
    try:
        text = row.data.decode()
    except UnicodeDecodeError as error:
        raise _BrokenError(f"not UTF-8 at byte {error.start}: {error.reason}") from None
    try:
        fields = next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise _BrokenError(f"not CSV: {error}") from None
    if len(fields) != row.width:
        raise _BrokenError(f"{len(fields)} columns, {row.width} expected")
    return fields


def _number(name: str, text: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise _BrokenError(f"{name} is no number: {text[:MAXIMUM_NAME_CHARACTERS]!r}")
    number = Decimal(text)
    if abs(number) > MAXIMUM_NUMBER:
        raise _BrokenError(f"{name} is beyond {MAXIMUM_NUMBER}: {text}")
    return number


def _whole_number(name: str, text: str) -> int:
    number = _number(name, text)
    if number != number.to_integral_value():
        raise _BrokenError(f"{name} is no whole number: {text}")
    return int(number)


@lru_cache(maxsize=64)
def _time(text: str) -> dt.datetime:
    problem = f"InvoiceDate is no date and time: {text[:MAXIMUM_NAME_CHARACTERS]!r}"
    if not _DATE.fullmatch(text):
        raise _BrokenError(problem)
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise _BrokenError(f"{problem}, {error}") from None
    if not FIRST_YEAR <= time.year <= LAST_YEAR:
        raise _BrokenError(f"InvoiceDate is not between {FIRST_YEAR} and {LAST_YEAR}: {text}")
    return time.replace(tzinfo=dt.UTC)
