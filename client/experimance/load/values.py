"""Values of request fields: fixed, or drawn anew for each request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from experimance.load.misuse import Misuse, listed

_KINDS = ("choice", "range", "sequence")
_ACCEPTED = (
    "a value, { choice = [a, b] }, { choice = [a, b], weights = [3, 1] }, { range = [low, high] } "
    "or { sequence = [a, b], every = 10 }"
)


class Value(Protocol):
    """What a field is filled from."""

    def draw(self, rng: np.random.Generator, number: int) -> Any:
        """The value of the request of this number."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    value: Any

    def draw(self, rng: np.random.Generator, number: int) -> Any:
        """The value."""
        return self.value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several, each as likely as its share."""

    values: tuple[Any, ...]
    shares: tuple[float, ...]

    def draw(self, rng: np.random.Generator, number: int) -> Any:
        """Any of them."""
        return self.values[rng.choice(len(self.values), p=self.shares)]


@dataclass(frozen=True, slots=True)
class Range:
    """Evenly between two numbers, both included; whole numbers if both are."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator, number: int) -> float:
        """A number between them."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return int(rng.integers(self.low, self.high, endpoint=True))
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True, slots=True)
class Sequential:
    """One after the other by the requests' numbers, each for so many, and from the start again."""

    values: tuple[Any, ...]
    every: int

    def draw(self, rng: np.random.Generator, number: int) -> Any:
        """The one whose turn it is."""
        return self.values[number // self.every % len(self.values)]


def value_of(spec: Any, where: str) -> Value:
    """A field's value as a scenario file has it.

    Raises:
        Misuse: a table that describes no value.
    """
    if not isinstance(spec, Mapping):
        return Fixed(spec)
    kind = next((name for name in _KINDS if name in spec), None)
    extra = set(spec) - {kind, {"choice": "weights", "sequence": "every"}.get(kind or "", "")}
    if kind is None or extra:
        wrong = listed(sorted(extra)) or "nothing"
        raise Misuse(where, f"does not know {wrong}; accepted: {_ACCEPTED}")
    values = spec[kind]
    if not isinstance(values, list) or not values:
        raise Misuse(f"{where}.{kind}", f"{values!r} is not accepted; use a list of values")
    if kind == "choice":
        return Choice(tuple(values), _shares(spec.get("weights"), len(values), where))
    if kind == "range":
        return _range(values, where)
    every = spec.get("every", 1)
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise Misuse(f"{where}.every", f"{every!r} is not accepted; use a whole number from 1")
    return Sequential(tuple(values), every)


def number_of(spec: Any, where: str, low: float, high: float) -> Value:
    """A value that is a number within bounds, whatever is drawn.

    Raises:
        Misuse: anything else.
    """
    value = value_of(spec, where)
    match value:
        case Range(bottom, top):
            possible: Sequence[Any] = (bottom, top)
        case Fixed(one):
            possible = (one,)
        case Choice(values) | Sequential(values):
            possible = values
        case _:
            raise TypeError(f"{type(value).__name__} is no value")
    for one in possible:
        if not _is_number(one) or not low <= one <= high:
            raise Misuse(where, f"{one!r} is not accepted; use a number from {low:g} to {high:g}")
    return value


def _shares(weights: Any, count: int, where: str) -> tuple[float, ...]:
    if weights is None:
        return (1 / count,) * count
    good = isinstance(weights, list) and len(weights) == count
    if not good or not all(_is_number(w) and w >= 0 for w in weights) or sum(weights) <= 0:
        raise Misuse(f"{where}.weights", f"{weights!r} is not accepted; use {count} numbers from 0")
    return tuple(w / sum(weights) for w in weights)


def _range(values: list[Any], where: str) -> Range:
    if len(values) != 2 or not all(map(_is_number, values)) or values[0] > values[1]:
        raise Misuse(f"{where}.range", f"{values!r} is not accepted; use [low, high]")
    return Range(*values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
