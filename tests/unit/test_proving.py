"""Who wants a proof asks once, and again only where the question seems to be lost."""

from __future__ import annotations

import pytest

from service.proving import Asking

AT_END = {0: 5}
FURTHER = {0: 6}


@pytest.mark.parametrize(
    ("looks", "asked"),
    [
        ([(0.0, AT_END, 1), (1.0, AT_END, 1), (2.9, AT_END, 1)], [True, False, False]),
        ([(0.0, AT_END, 1), (3.0, AT_END, 1), (4.0, AT_END, 1)], [True, True, False]),
        ([(0.0, AT_END, 1), (4.0, AT_END, 2), (6.9, AT_END, 2)], [True, False, False]),
        ([(0.0, AT_END, 1), (2.0, AT_END, 2), (5.0, AT_END, 2)], [True, False, True]),
        ([(0.0, AT_END, 1), (0.1, FURTHER, 1), (0.2, FURTHER, 1)], [True, True, False]),
        ([(9.0, AT_END, 1), (1.0, AT_END, 1)], [True, True]),
    ],
    ids=[
        "a question that waits is not put again",
        "one that nothing comes of is",
        "answers come in: it is under way",
        "they stopped",
        "the log went on",
        "a clock was set back",
    ],
)
def test_a_proof_is_asked_for_again_only_where_nothing_comes_of_it(
    looks: list[tuple[float, dict[int, int], int]], asked: list[bool]
) -> None:
    asking = Asking()
    assert [asking.is_due(*look) for look in looks] == asked
