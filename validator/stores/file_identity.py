"""Is a file that was opened still the one that its path names?"""

from __future__ import annotations

from pathlib import Path


class FileIdentity:
    """Knows a file by device and inode; another one under its name is another file.

    Parameters
    ----------
    path: The file, which must exist. Raises `OSError` where it does not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = self._read()

    def _read(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_dev, found.st_ino

    def is_same(self) -> bool:
        """Say whether the path still names it."""
        try:
            return self._read() == self._identity
        except OSError:
            return False

    def size_bytes(self) -> int:
        """Return its size; 0 where it is gone."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0
