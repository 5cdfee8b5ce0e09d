"""Figures with their spread: on a shared machine a single number says nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of repeated measurements, the lowest, the highest, and how many there were."""

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        if self.count == 1:
            return short(self.median)
        return f"{short(self.median)} ({short(self.low)}–{short(self.high)})"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table. `headline` figures go into the README."""

    name: str
    unit: str
    value: Spread
    note: str = ""
    headline: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What one benchmark found. `notes` say what ran and what stood in the way."""

    title: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError if there are none."""
    if not values:
        raise ValueError("nothing was measured")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """The spread of the ratio, pair by pair: both of a pair were measured side by side."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True) if b > 0])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def short(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
