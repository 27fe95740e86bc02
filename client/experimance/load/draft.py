"""Requests as they are sent: drawn by number, so that a run repeats whatever the server does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from experimance.load.scenario import Parting, Scenario, Traffic

_STREAM = 3
_KEPT = 64
"""Bodies that are kept because they may be asked for again."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A request that waits for its moment; seconds are from sending."""

    number: int
    scenario: int
    route: str
    accept: str
    body: bytes
    has_session: bool
    cancel_after: float | None
    leave_after: float | None


class Drafter:
    """Draws requests of a mix."""

    def __init__(self, traffic: Traffic) -> None:
        self._scenarios: Sequence[Scenario] = traffic.scenarios
        self._seed = traffic.seed
        weights = np.array([s.weight for s in traffic.scenarios])
        self._shares = weights / weights.sum()
        # The large part of a body, as JSON text already.
        self._depths = [[_entry("depth_map_b64", t) for t in s.depth] for s in traffic.scenarios]
        self._images = [[_entry("image_b64", t) for t in s.image] for s in traffic.scenarios]
        self._body = lru_cache(_KEPT)(_join)

    def draft(self, number: int) -> Draft:
        """The request of this number: the same whenever it is asked for."""
        rng = np.random.default_rng((_STREAM, self._seed, number))
        index = int(rng.choice(len(self._shares), p=self._shares))
        scenario = self._scenarios[index]
        fields = {name: value.draw(rng, number) for name, value in scenario.fields.items()}
        pictures = [
            entries[rng.integers(len(entries))]
            for entries in (self._depths[index], self._images[index])
            if entries
        ]
        return Draft(
            number=number,
            scenario=index,
            route="/generate_stream" if scenario.stream else "/generate",
            accept="text/event-stream" if scenario.stream else scenario.accept,
            body=self._body(json.dumps(fields), *pictures),
            has_session=fields.get("session") is not None,
            cancel_after=_moment(scenario.cancel, rng, number),
            leave_after=_moment(scenario.leave, rng, number),
        )


def _entry(name: str, text: str) -> bytes:
    return json.dumps({name: text}).encode()


def _join(fields: str, *pictures: bytes) -> bytes:
    """One JSON object out of several."""
    inner = [part[1:-1] for part in (fields.encode(), *pictures)]
    return b"{" + b", ".join(part for part in inner if part) + b"}"


def _moment(parting: Parting | None, rng: np.random.Generator, number: int) -> float | None:
    if parting is None or rng.random() >= parting.share:
        return None
    return float(parting.after.draw(rng, number))
