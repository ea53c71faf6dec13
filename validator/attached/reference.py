"""What the log says of every key, on disk: memory is bounded whatever the number of keys.

One LMDB environment holds the items, the positions of the fold, what each store was last seen to
have, and the findings; what belongs together is written in one transaction, so that after a
``kill -9`` all of it is of one moment.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import msgspec
from msgspec import Struct
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from synchroscope.errors import ConfigurationError, StorageError
from synchroscope.ports import Record
from validator.attached.history import Item, decode_item, encode_item
from validator.attached.key_forms import KNOWN, PLAIN, other_forms
from validator.attached.record_mapping import Change
from validator.stores.text_values import Kind

FIRST_MAP_BYTES = 256 * 1024 * 1024
MAXIMUM_MAP_BYTES = 1024 * 1024 * 1024 * 1024
MAXIMUM_NAME_BYTES = 400
"""LMDB's keys are at most 511 bytes; longer names are cut, and a hash keeps them apart."""
_ABOUT = b"fold"
_COUNTS = b"counts"
_WALK = b"walk"
_NAME = b"name"
_ALIAS = b"alias"
_SHARED = b"shared"
_FINDINGS = b"findings"
_STORES = "store"
KEY_KINDS = (PLAIN, *KNOWN)
_T = TypeVar("_T")
_encode = msgspec.msgpack.Encoder().encode


def item_key(context_type: str, subject: str) -> bytes:
    """Return the key of an item; keys of a context type lie together, in order of subjects."""
    name = b"\0".join((context_type.encode(), subject.encode()))
    if len(name) <= MAXIMUM_NAME_BYTES:
        return name
    return name[: MAXIMUM_NAME_BYTES - 17] + b"\0" + xxh3_128_digest(name)


def _alias(kind: Kind) -> bytes:
    return _ALIAS if kind == PLAIN else b"form" + kind.encode() + b"\0"


def _shared(kind: Kind, key: bytes) -> bytes:
    return _SHARED + kind.encode() + b"\0" + key


def is_cut(key: bytes) -> bool:
    """Say whether an item's key may be that of a longer name."""
    return len(key) == MAXIMUM_NAME_BYTES and key[-17:-16] == b"\0"


class Mark(Struct, frozen=True, array_like=True):
    """What stood at an offset."""

    offset: int
    timestamp: float
    content_hash: int


def mark_of(record: Record) -> Mark:
    """Return what a record is known again by."""
    content = b"%d %b%b" % (len(record.key), record.key, record.value)
    return Mark(record.offset, record.timestamp, xxh3_64_intdigest(content))


class FoldState(Struct, frozen=True):
    """Where the fold stands, and from where on it knows everything.

    ``is_complete``: the log was folded from its very beginning, so that a key that was not seen
    is none of the log's. ``known_from``: partitions of which records were deleted before they were
    read, and the first offset after that. ``marks``: the last record of each partition, by which a
    topic is known again. ``lost_deletes``: the last record that deletes nobody knows whom.
    ``unread``: the last one that says nobody knows what of nobody knows whom.
    """

    fingerprint: str
    positions: dict[int, int]
    is_complete: bool
    known_from: dict[int, int] = {}
    marks: dict[int, Mark] = {}
    lost_deletes: dict[int, int] = {}
    unread: dict[int, int] = {}


class Seen(Struct, array_like=True):
    """What a store was last seen to have of an item.

    ``fields``: field -> offset of the newest version that was seen there. ``agreed``: the fold's
    position in the item's partition when all was well last, -1: never. ``walk``: the number of the
    walk that looked last.
    """

    fields: dict[str, int] = {}
    agreed: int = -1
    walk: int = 0


_decode_state = msgspec.msgpack.Decoder(FoldState).decode
_decode_seen = msgspec.msgpack.Decoder(Seen).decode


class KeyedReference:
    """The reference of attached mode; used by one thread.

    Parameters
    ----------
    path: The folder; made when absent.
    fingerprint: Of what was folded and how. Another one in the folder is a `ConfigurationError`.
    """

    def __init__(
        self, path: Path | str, fingerprint: str, *, map_bytes: int = FIRST_MAP_BYTES
    ) -> None:
        self.path = self._path = Path(path)
        self._lock = threading.Lock()
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            # Not flushed: a process that dies loses nothing, and after a power cut the folder can
            # be deleted, for the log has everything.
            self._environment = lmdb.open(
                str(self._path), map_size=map_bytes, max_dbs=8, sync=False, metasync=False
            )
            self._items = self._environment.open_db(b"items")
            self._seen = self._environment.open_db(b"seen")
            self._about = self._environment.open_db(b"about")
            self._findings = self._environment.open_db(_FINDINGS)
        except (lmdb.Error, OSError) as error:
            raise self._failure(error) from error
        self._fingerprint = fingerprint
        state = self.state()
        if state is not None and state.fingerprint != fingerprint:
            self.close()
            raise ConfigurationError(
                f"{self._path} was filled from another topic, or with another record mapping: "
                "name another --data-dir, or delete this one and the log is folded anew"
            )

    # -- the fold --------------------------------------------------------------------------------

    def state(self) -> FoldState | None:
        """Return where the fold stands; None before it began."""
        data = self._get(_ABOUT, self._about)
        return None if data is None else _decode_state(data)

    def counts(self) -> dict[str, int]:
        """Return what was counted so far, over all runs."""
        data = self._get(_COUNTS, self._about)
        return {} if data is None else msgspec.msgpack.decode(data, type=dict[str, int])

    def fold(
        self,
        changes: Iterable[tuple[int, Change]],
        positions: Mapping[int, int],
        is_complete: bool,
        counts: Mapping[str, int],
        known_from: Mapping[int, int] | None = None,
        marks: Mapping[int, Mark] | None = None,
        lost_deletes: Mapping[int, int] | None = None,
        unread: Mapping[int, int] | None = None,
    ) -> dict[bytes, Item]:
        """Apply (partition, change) pairs and move the positions, in one step.

        Returns the items that were touched.
        """
        changes = list(changes)
        state = FoldState(
            self._fingerprint,
            dict(positions),
            is_complete,
            dict(known_from or {}),
            dict(marks or {}),
            dict(lost_deletes or {}),
            dict(unread or {}),
        )

        def write(transaction: Any) -> dict[bytes, Item]:
            items: dict[bytes, Item] = {}
            for partition, change in changes:
                key = item_key(change.context_type, change.subject)
                item = items.get(key)
                if item is None:
                    data = transaction.get(key, db=self._items)
                    item = _new_item(partition, change) if data is None else decode_item(data)
                    items[key] = item
                    if data is None:
                        self._note_forms(transaction, key, change, items)
                item.is_spread = item.is_spread or item.partition != partition
                item.apply(change, _known_from(state, partition, change.offset))
            with transaction.cursor(self._items) as cursor:
                cursor.putmulti([(key, encode_item(item)) for key, item in items.items()])
            transaction.put(_ABOUT, _encode(state), db=self._about)
            transaction.put(_COUNTS, _encode(dict(counts)), db=self._about)
            return items

        return self._write(write)

    def _note_forms(
        self, transaction: Any, key: bytes, change: Change, items: Mapping[bytes, Item]
    ) -> None:
        """Note what columns of a type call a new item, and whether another one is called so."""
        forms = dict(other_forms(change.subject))
        for kind in KEY_KINDS:
            form = key
            if kind in forms:
                form = item_key(change.context_type, forms[kind])
            alias = _alias(kind) + form
            other = transaction.get(alias, db=self._about)
            if other is None and form != key:
                is_item = form in items or transaction.get(form, db=self._items) is not None
                other = form if is_item else None
                transaction.put(alias, key, db=self._about)
            if other is not None and other != key:
                for one in (key, bytes(other)):
                    transaction.put(_shared(kind, one), b"", db=self._about)

    # -- items -----------------------------------------------------------------------------------

    def items(self, keys: Iterable[bytes]) -> dict[bytes, Item]:
        """Return those of the items that exist."""
        with self._lock, self._environment.begin(db=self._items) as transaction:
            found = ((key, transaction.get(key)) for key in keys)
            return {key: decode_item(data) for key, data in found if data is not None}

    def aliases(self, keys: Mapping[bytes, bytes], kind: Kind = PLAIN) -> dict[bytes, bytes]:
        """Return of keys that are no items' own the item that a column of a kind calls so.

        `keys`: the key of a row -> that of its form.
        """
        prefixes = dict.fromkeys((_alias(kind), _ALIAS))
        with self._lock, self._environment.begin() as transaction:
            found = {}
            for key, form in keys.items():
                if transaction.get(key, db=self._items) is not None:
                    continue
                known = (transaction.get(prefix + form, db=self._about) for prefix in prefixes)
                item = next((bytes(one) for one in known if one is not None), None)
                if item is None and form != key and transaction.get(form, db=self._items):
                    item = form
                if item is not None:
                    found[key] = item
            return found

    def shared(self, keys: Iterable[bytes], kind: Kind) -> set[bytes]:
        """Return those items that are one with another one in a column of a kind."""
        with self._lock, self._environment.begin(db=self._about) as transaction:
            return {key for key in keys if transaction.get(_shared(kind, key)) is not None}

    def walk(self, after: bytes, limit: int) -> list[tuple[bytes, Item]]:
        """Return up to `limit` items in order of their keys, after a key; b"" begins."""
        with self._lock, self._environment.begin(db=self._items) as transaction:
            cursor = transaction.cursor()
            found = cursor.set_range(after + b"\0") if after else cursor.first()
            rows: list[tuple[bytes, Item]] = []
            while found and len(rows) < limit:
                rows.append((cursor.key(), decode_item(cursor.value())))
                found = cursor.next()
            return rows

    def item_count(self) -> int:
        """Return how many items there are, deleted ones too."""
        with self._environment.begin() as transaction:
            count: int = transaction.stat(self._items)["entries"]
            return count

    # -- what stores were seen to have -----------------------------------------------------------

    def seen(self, store: int, keys: Iterable[bytes]) -> dict[bytes, Seen]:
        """Return what a store was last seen to have of these items."""
        prefix = bytes((store,))
        with self._lock, self._environment.begin(db=self._seen) as transaction:
            found = ((key, transaction.get(prefix + key)) for key in keys)
            return {key: _decode_seen(data) for key, data in found if data is not None}

    def store_seen(self, store: int, rows: Mapping[bytes, Seen]) -> None:
        """Keep what a store was seen to have."""
        if not rows:
            return
        prefix = bytes((store,))
        encoded = [(prefix + key, _encode(seen)) for key, seen in rows.items()]

        def write(transaction: Any) -> None:
            with transaction.cursor(self._seen) as cursor:
                cursor.putmulti(encoded)

        self._write(write)

    def keep_names(self, names: Mapping[bytes, tuple[str, str]]) -> None:
        """Keep (context type, subject) of rows whose key is cut and that may be no items."""
        cut = {_NAME + key: name for key, name in names.items() if is_cut(key)}

        def write(transaction: Any) -> None:
            for key, name in cut.items():
                transaction.put(key, _encode(name), db=self._about)

        if cut:
            self._write(write)

    def name_of(self, key: bytes) -> tuple[str, str]:
        """Return the (context type, subject) of an item's key."""
        data = self._get(_NAME + key, self._about) if is_cut(key) else None
        if data is not None:
            return msgspec.msgpack.decode(data, type=tuple[str, str])
        context_type, _, subject = key.partition(b"\0")
        return context_type.decode(errors="replace"), subject.decode(errors="replace")

    def next_walk(self, store: int) -> int:
        """Return a number for a store's walk that none had, in this process or an earlier one.

        Rows that were met are marked with it on disk, so that an earlier walk's would hide others.
        """
        name, prefix = _WALK + bytes((store,)), bytes((store,))

        def write(transaction: Any) -> int:
            data = transaction.get(name, db=self._about)
            last = int(data) if data is not None else _last_walk(transaction, self._seen, prefix)
            transaction.put(name, str(last + 1).encode(), db=self._about)
            return last + 1

        return self._write(write)

    def number_of(self, store: str) -> int:
        """Return the number under which a store's rows are kept, the same for ever."""
        known = {name: data[0] for name, data in self.stored(_STORES).items()}
        if store not in known:
            free = [number for number in range(256) if number not in known.values()]
            if not free:
                raise ConfigurationError(f"{self._path} knows 256 stores: name another --data-dir")
            known[store] = free[0]
            self.store(_STORES, {store: bytes((free[0],))})
        return known[store]

    # -- findings and progress -------------------------------------------------------------------

    def stored(self, kind: str) -> dict[str, bytes]:
        """Return what was kept under a kind."""
        prefix = kind.encode() + b"\0"
        with self._lock, self._environment.begin(db=self._findings) as transaction:
            return _rows(transaction, prefix)

    def store(self, kind: str, rows: Mapping[str, bytes | None]) -> None:
        """Keep rows under a kind; None removes one."""

        def write(transaction: Any) -> None:
            for name, data in rows.items():
                key = kind.encode() + b"\0" + name.encode()
                if data is None:
                    transaction.delete(key, db=self._findings)
                else:
                    transaction.put(key, data, db=self._findings)

        if rows:
            self._write(write)

    def close(self) -> None:
        """Flush and release the folder."""
        try:
            self._environment.sync(True)
        except lmdb.Error as error:
            raise self._failure(error) from error
        finally:
            self._environment.close()

    # -- LMDB ------------------------------------------------------------------------------------

    def _get(self, key: bytes, database: Any) -> bytes | None:
        with self._lock, self._environment.begin(db=database) as transaction:
            data: bytes | None = transaction.get(key)
            return data

    def _write(self, work: Callable[[Any], _T]) -> _T:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    return work(transaction)
            except lmdb.MapFullError as error:
                self._grow(error)
            except lmdb.Error as error:
                raise self._failure(error) from error

    def _grow(self, error: lmdb.Error) -> None:
        with self._lock:  # No transaction may be active while the map is moved.
            size = self._environment.info()["map_size"]
            if size >= MAXIMUM_MAP_BYTES:
                raise self._failure(error) from error
            self._environment.set_mapsize(2 * size)

    def _failure(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self._path}: the reference cannot be kept there ({error}): check that the folder "
            "can be written and the disk has space; if it is damaged, delete it and the log is "
            "folded anew"
        )


def rows_of(path: Path, kind: str) -> dict[str, bytes]:
    """Return what was kept under a kind in a folder, which another process may be using."""
    try:
        with (
            lmdb.open(str(path), readonly=True, create=False, max_dbs=8) as environment,
            environment.begin(db=environment.open_db(_FINDINGS, create=False)) as transaction,
        ):
            return _rows(transaction, kind.encode() + b"\0")
    except lmdb.NotFoundError:  # Nothing was kept yet.
        return {}
    except (lmdb.Error, OSError) as error:
        raise StorageError(f"{path}: what was kept there cannot be read ({error})") from error


def _rows(transaction: Any, prefix: bytes) -> dict[str, bytes]:
    rows: dict[str, bytes] = {}
    with transaction.cursor() as cursor:
        found = cursor.set_range(prefix)
        while found and cursor.key().startswith(prefix):
            rows[cursor.key()[len(prefix) :].decode()] = cursor.value()
            found = cursor.next()
    return rows


def _last_walk(transaction: Any, seen: Any, prefix: bytes) -> int:
    """Return the highest walk in a folder that was filled before their numbers were kept."""
    with transaction.cursor(seen) as cursor:
        last, found = 0, cursor.set_range(prefix)
        while found and cursor.key().startswith(prefix):
            last = max(last, _decode_seen(cursor.value()).walk)
            found = cursor.next()
    return last


def _known_from(state: FoldState, partition: int, offset: int) -> int:
    """Return the offset before which what was said may have changed unseen by now."""
    known_from = state.known_from.get(partition, 0)
    unread = state.unread.get(partition, -1)
    return max(known_from, unread + 1) if unread < offset else known_from


def _new_item(partition: int, change: Change) -> Item:
    return Item(
        change.context_type, change.subject, partition, change.offset, change.offset, 0.0, {}, b""
    )
