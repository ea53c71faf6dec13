"""Asks a store without waiting for it: one that hangs holds nothing up but itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

_Answer = TypeVar("_Answer")


class Asking(Protocol):
    """How a store is asked; whoever asks has one question under way at a time."""

    def ask(self, act: Callable[[], _Answer]) -> Future[_Answer]:
        """Have it done; what comes of it, an error too, is in what is returned."""
        ...

    def close(self, act: Callable[[], None]) -> Future[None]:
        """Have a last thing done. Nobody need wait for it: a store that hangs is left to itself."""
        ...


class AtOnce:
    """The `Asking` port in the thread that asks: for tests, whose stores answer at once."""

    def ask(self, act: Callable[[], _Answer]) -> Future[_Answer]:
        """Do it."""
        answer: Future[_Answer] = Future()
        _do(act, answer)
        return answer

    def close(self, act: Callable[[], None]) -> Future[None]:
        """Do it."""
        return self.ask(act)


class InThread:
    """The `Asking` port in a thread of its own, which does not keep the process alive.

    Parameters
    ----------
    name: What the thread is called.
    """

    def __init__(self, name: str) -> None:
        self._questions: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name=f"store: {name}", daemon=True).start()

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            _do(*question)

    def ask(self, act: Callable[[], _Answer]) -> Future[_Answer]:
        """Hand it over."""
        answer: Future[_Answer] = Future()
        self._questions.put((act, answer))
        return answer

    def close(self, act: Callable[[], None]) -> Future[None]:
        """Hand it over; the thread ends after it."""
        closed = self.ask(act)
        self._questions.put(None)
        return closed


def _do(act: Callable[[], _Answer], answer: Future[_Answer]) -> None:
    try:
        answer.set_result(act())
    except Exception as error:
        answer.set_exception(error)
