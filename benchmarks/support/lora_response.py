"""How far a LoRA changes the look, by strength.

The yardstick is the look itself: what it does to true renderings, in simple statistics of tone and
colour. A response of 1 means that the pictures have moved as far in that direction as the
renderings do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.gallery import Pairs, adherence, paint_pairs, read, true_renderings
from benchmarks.support.judge import Judge, Picture
from common.protocol import LoraWeight
from models.demo.training.data.looks import apply_look

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
ADHERENCE_BAR = 0.75
PROPORTIONAL_BAR = 0.95
VISIBLE_BAR = 0.3

Vector = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Response:
    """A LoRA on a variant: response and adherence for each strength."""

    look: str
    model: str
    responses: tuple[float, ...]
    adherences: tuple[float, ...]

    @property
    def proportional(self) -> float:
        """Pearson correlation between strength and response."""
        return float(np.corrcoef(STRENGTHS, self.responses)[0, 1])

    @property
    def passed(self) -> bool:
        """Rising all the way, proportional, visible at strength 1, and true to the depth."""
        return (
            all(np.diff(self.responses) > 0)
            and self.proportional >= PROPORTIONAL_BAR
            and self.responses[STRENGTHS.index(1.0)] >= VISIBLE_BAR
            and min(self.adherences) >= ADHERENCE_BAR
        )


def statistics(picture: Picture) -> Vector:
    """Mean colour of the whole, of the darkest and of the brightest third; contrast; saturation."""
    rgb = picture.reshape(-1, 3).astype(np.float32) / 255
    luma = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    ranked = rgb[np.argsort(luma)]
    third = len(rgb) // 3
    saturation = (rgb.max(1) - rgb.min(1)).mean()
    return np.concatenate(
        [rgb.mean(0), ranked[:third].mean(0), ranked[-third:].mean(0), [luma.std(), saturation]]
    )


def mean_change(after: Sequence[Picture], before: Sequence[Picture]) -> Vector:
    """By how much the statistics of `after` differ from those of `before`, on average."""
    changes = [statistics(a) - statistics(b) for a, b in zip(after, before, strict=True)]
    change: Vector = np.mean(changes, axis=0)
    return change


def measure(judge: Judge, pairs: Pairs, look: str, model: str) -> Response:
    """Paint the pairs at every strength and compare with the look on true renderings."""
    renderings = true_renderings(pairs)
    graded = [
        apply_look(look, picture, held.height)
        for picture, (held, _) in zip(renderings, pairs, strict=True)
    ]
    axis = mean_change(graded, renderings)
    responses, adherences = [], []
    plain: list[Picture] = []
    for strength in STRENGTHS:
        loras = (LoraWeight(look, strength),) if strength else ()
        pictures = paint_pairs(pairs, model, loras=loras)
        plain = plain or pictures
        responses.append(float(mean_change(pictures, plain) @ axis / (axis @ axis)))
        adherences.append(adherence(read(judge, pairs, pictures)))
    return Response(look, model, tuple(responses), tuple(adherences))
