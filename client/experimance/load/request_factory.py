"""Deterministic requests of a traffic mix, by request number."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from experimance.load.scenario import Abandonment, Traffic

_STREAM = 3
"""Separates the random numbers of request contents from those of arrivals and terrain."""
_CACHED_BODIES = 64


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """A request before it is sent; `cancel_after` and `leave_after` are seconds from sending."""

    number: int
    scenario: int
    route: str
    accept: str
    body: bytes
    has_session: bool
    cancel_after: float | None
    leave_after: float | None


class RequestFactory:
    """Draws requests from seed and number, so a run repeats whatever the server does."""

    def __init__(self, traffic: Traffic) -> None:
        self._scenarios = traffic.scenarios
        self._seed = traffic.seed
        weights = np.array([s.weight for s in traffic.scenarios])
        self._shares = weights / weights.sum()
        # Images make up most of a body, so their JSON is encoded only once.
        self._images = [
            [
                [_encode_entry(key, text) for text in texts]
                for key, texts in (("depth_map_b64", s.depth_maps), ("image_b64", s.init_images))
                if texts
            ]
            for s in traffic.scenarios
        ]
        self._body = lru_cache(_CACHED_BODIES)(_join_objects)

    def create(self, number: int) -> PlannedRequest:
        """Return the request of a number; equal numbers give equal requests."""
        rng = np.random.default_rng((_STREAM, self._seed, number))
        index = int(rng.choice(len(self._shares), p=self._shares))
        scenario = self._scenarios[index]
        fields = {name: value.draw(rng, number) for name, value in scenario.fields.items()}
        images = [entries[rng.integers(len(entries))] for entries in self._images[index]]
        return PlannedRequest(
            number=number,
            scenario=index,
            route="/generate_stream" if scenario.stream else "/generate",
            accept="text/event-stream" if scenario.stream else scenario.media_type,
            body=self._body(json.dumps(fields), *images),
            has_session=fields.get("session") is not None,
            cancel_after=_draw_delay(scenario.cancel, rng, number),
            leave_after=_draw_delay(scenario.leave, rng, number),
        )


def _encode_entry(key: str, text: str) -> bytes:
    return json.dumps({key: text}).encode()


def _join_objects(fields: str, *images: bytes) -> bytes:
    """Return one JSON object with the entries of several."""
    entries = [part[1:-1] for part in (fields.encode(), *images)]
    return b"{" + b", ".join(part for part in entries if part) + b"}"


def _draw_delay(
    abandonment: Abandonment | None, rng: np.random.Generator, number: int
) -> float | None:
    if abandonment is None or rng.random() >= abandonment.share:
        return None
    return float(abandonment.after.draw(rng, number))
