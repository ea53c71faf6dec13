"""Kinds of values that commands take."""

from __future__ import annotations

import math
from typing import Any

import click


class Share(click.FloatRange):
    """A number between 0 and 1, neither of them and not nan."""

    def __init__(self) -> None:
        super().__init__(0.0, 1.0, min_open=True, max_open=True)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the share; nan passes every range, for it is neither below nor above."""
        share = float(super().convert(value, param, ctx))
        if math.isnan(share):
            self.fail(f"{value} is no number between 0 and 1", param, ctx)
        return share


class Seconds(click.FloatRange):
    """A span of time: a number that is neither negative nor infinite, and not nan.

    Parameters
    ----------
    may_be_zero: 0 is one too.
    """

    def __init__(self, *, may_be_zero: bool = False) -> None:
        super().__init__(min=0.0, min_open=not may_be_zero)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds; nan passes every range, for it is neither below nor above."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value} is no span of time: give a number of seconds", param, ctx)
        return seconds
