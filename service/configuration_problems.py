"""What is wrong with a configuration: all of it at once, each with the place where it stands."""

from __future__ import annotations

from synchroscope.errors import ConfigurationError

Path = tuple[str | int, ...]


class WrongConfigurationError(ConfigurationError):
    """A configuration with everything that is wrong with it.

    Parameters
    ----------
    file: Which one.
    problems: One sentence each, which begins with the place.
    """

    def __init__(self, file: str, problems: list[str]) -> None:
        super().__init__("\n  ".join([f"{file}:", *problems]))
        self.problems = problems


class Problems:
    """Collects what is wrong with one file.

    Parameters
    ----------
    file: What it is called in the message.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._origins: dict[Path, str | int] = {}
        self._found: list[tuple[float, str]] = []
        self._last: list[tuple[float, str]] = []

    def stands(self, path: Path, origin: str | int) -> None:
        """Note where a part of the configuration stands: a line, or a variable's name."""
        self._origins[path] = origin

    def add(self, path: Path, text: str) -> None:
        """Note a problem of a part, or of something that is missing in it."""
        self._found.append(self._placed(path, text))

    def add_if_alone(self, path: Path, text: str) -> None:
        """Note a problem that most likely follows from others, if there are any."""
        self._last.append(self._placed(path, text))

    def _placed(self, path: Path, text: str) -> tuple[float, str]:
        parents = (path[:length] for length in range(len(path), -1, -1))
        origin = next((self._origins[place] for place in parents if place in self._origins), "")
        where = f"line {origin}" if isinstance(origin, int) else origin
        order = float(origin) if isinstance(origin, int) else float("inf")
        return order, ": ".join(part for part in (where, shown(path), text) if part)

    @property
    def found(self) -> list[str]:
        """What is wrong, in the order of the file's lines."""
        return [text for _, text in sorted(self._found or self._last, key=lambda one: one[0])]

    def raise_if_any(self) -> None:
        """Raise one `WrongConfigurationError` that names them all."""
        if self.found:
            raise WrongConfigurationError(self._file, self.found)


def shown(path: Path) -> str:
    """Return a place for people.

    >>> shown(("replicas", 0, "redis"))
    'replicas[0].redis'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")
