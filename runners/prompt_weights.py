"""Weighted prompts: `a (red:1.3) barn` stresses a phrase, `(red:0.6)` plays it down."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_WEIGHT = 2.0

# No part of it can match what the next one matches, so that a prompt is read in linear time.
_WEIGHTED = re.compile(r"\(([^():]++):\s*+(\d++(?:\.\d*+)?|\.\d++)\s*+\)")


class PromptWeightError(ValueError):
    """A weight out of bounds; the message names the phrase and what is accepted."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A stretch of a prompt and how much it counts; 1 is as written."""

    text: str
    weight: float = 1.0


def parse_prompt(prompt: str) -> list[Fragment]:
    """Split a prompt at its weighted phrases; one fragment if there is none.

    The syntax is the common `(phrase:weight)`. Every other use of parentheses and colons is text.

    Raises:
        PromptWeightError: a weight over 2.
    """
    fragments = []
    end = 0
    for match in _WEIGHTED.finditer(prompt):
        if not match[1].strip():
            continue
        if prompt[end : match.start()].strip():
            fragments.append(Fragment(prompt[end : match.start()]))
        weight = float(match[2])
        if weight > MAX_WEIGHT:
            raise PromptWeightError(
                f"the weight of {match[0]!r} must be between 0 and {MAX_WEIGHT:g}"
            )
        fragments.append(Fragment(match[1], weight))
        end = match.end()
    if prompt[end:].strip() or not fragments:
        fragments.append(Fragment(prompt[end:]))
    return fragments
