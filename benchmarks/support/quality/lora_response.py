"""Response of the look to a LoRA's strength.

The unit is the look itself: its effect on true renderings, in simple statistics of tone and colour.
A response of 1 means that the images have moved as far in that direction as the renderings do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.quality.gallery import Pairs, adherence, paint_pairs, read, true_renderings
from benchmarks.support.quality.judge import Judge, Picture
from common.protocol import LoraWeight
from models.demo.training.data.looks import apply_look

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
ADHERENCE_BAR = 0.75
PROPORTIONAL_BAR = 0.95
VISIBLE_BAR = 0.3

Vector = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Response:
    """Response and adherence of a LoRA on a variant, for each strength."""

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
        """Whether it rises, is proportional, visible at strength 1, and true to the depth."""
        return (
            all(np.diff(self.responses) > 0)
            and self.proportional >= PROPORTIONAL_BAR
            and self.responses[STRENGTHS.index(1.0)] >= VISIBLE_BAR
            and min(self.adherences) >= ADHERENCE_BAR
        )


def statistics(picture: Picture) -> Vector:
    """Return mean colours of all pixels, the darkest and brightest third; contrast; saturation."""
    rgb = picture.reshape(-1, 3).astype(np.float32) / 255
    luma = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    ranked = rgb[np.argsort(luma)]
    third = len(rgb) // 3
    saturation = (rgb.max(1) - rgb.min(1)).mean()
    return np.concatenate(
        [rgb.mean(0), ranked[:third].mean(0), ranked[-third:].mean(0), [luma.std(), saturation]]
    )


def mean_change(after: Sequence[Picture], before: Sequence[Picture]) -> Vector:
    """Return the mean difference between the statistics of `after` and `before`."""
    changes = [statistics(a) - statistics(b) for a, b in zip(after, before, strict=True)]
    change: Vector = np.mean(changes, axis=0)
    return change


def measure(judge: Judge, pairs: Pairs, look: str, model: str) -> Response:
    """Generate the pairs at every strength, and compare with the look on true renderings.

    Args:
        judge: reads height from the images.
        pairs: depth maps, each with its era.
        look: name of the look and its LoRA.
        model: name of the variant.
    """
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
