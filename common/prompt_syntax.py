"""Weighted prompts: `a (red:1.3) barn` emphasizes a phrase, `(red:0.6)` de-emphasizes it."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_WEIGHT = 2.0

# Adjacent parts match disjoint characters, so that matching takes linear time.
_WEIGHTED = re.compile(r"\(([^():]++):\s*+(\d++(?:\.\d*+)?|\.\d++)\s*+\)")


class PromptWeightError(ValueError):
    """Weight out of bounds; the message names the phrase and the bounds."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """Part of a prompt and its weight; 1 is neutral."""

    text: str
    weight: float = 1.0


def parse_prompt(prompt: str) -> list[Fragment]:
    """Split a prompt at its weighted phrases; return one fragment if there are none.

    The syntax is the common `(phrase:weight)`. All other parentheses and colons are text.

    Raises:
        PromptWeightError: a weight exceeds 2.
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
