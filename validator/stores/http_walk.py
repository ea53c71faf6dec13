"""Does a walk over an interface's pages get anywhere? Told before it goes round for ever."""

from __future__ import annotations

from xxhash import xxh3_128_digest

from synchroscope.errors import ConfigurationError

EMPTY_PAGES = 1_000
"""So many pages in a row may be empty though each names a next one."""


class HttpWalk:
    """What was read of one walk: 16 bytes for each page's address, and a digest of the last page.

    Parameters
    ----------
    name: The store's, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._read: set[bytes] = set()
        self._last_address = b""
        self._last_digest: bytes | None = None
        self._empty_pages = 0

    def begin(self) -> None:
        """Forget everything: a new walk begins."""
        self._read.clear()
        self._last_digest = None
        self._empty_pages = 0

    def add(self, address: str, following: str | None, data: bytes, *, is_empty: bool) -> None:
        """Take a page that was read; one page may be read again and again.

        Raises `ConfigurationError` where the next page was read before, where a page with rows is
        byte for byte the one before it, and after `EMPTY_PAGES` empty ones in a row.

        Parameters
        ----------
        address: What the page was asked for by, a cursor or a number.
        following: What the next one is to be asked for by; None at the end.
        data: The page.
        is_empty: It has no rows.
        """
        place, digest = _hash(address), xxh3_128_digest(data)
        is_again = self._last_digest is not None and place == self._last_address
        if not is_again:
            if not is_empty and digest == self._last_digest:
                raise self._broken(
                    "a page has the very bytes of the one before it: the server does not heed what "
                    "asks for the next one; correct page or cursor"
                )
            self._empty_pages = self._empty_pages + 1 if is_empty else 0
        self._read.add(place)
        self._last_address, self._last_digest = place, digest
        if following is None:
            return
        if following == address:
            raise self._broken("a page names itself as the next one")
        if _hash(following) in self._read:
            raise self._broken(
                "a page names one as the next that was read before, so they go round for ever; "
                "correct cursor or next"
            )
        if self._empty_pages >= EMPTY_PAGES:
            raise self._broken(
                f"{EMPTY_PAGES:,} pages in a row have no rows and name a next one; correct items "
                "or next"
            )

    def _broken(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"{self._name}: {what}")


def _hash(address: str) -> bytes:
    return xxh3_128_digest(address.encode(errors="surrogatepass"))
