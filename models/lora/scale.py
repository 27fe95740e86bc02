"""Scale of an adapter's change: alpha over rank, or over its root with rsLoRA.

LoRA (arXiv:2106.09685) scales by alpha / rank, rsLoRA (arXiv:2312.03732) by alpha / sqrt(rank).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_METADATA_KEY = "lora_adapter_metadata"
"""Entry of a safetensors file's metadata in which diffusers stores peft's settings."""


# Names, classes of characters, choices of names, and at most two repetitions and four choices: a
# file must not choose how long a match takes.
_ATOM = r"(?:[\w.]|\\[.dw]|\[[\w.-]+\])"
_CHOICE = rf"\((?:\?:)?{_ATOM}+(?:\|{_ATOM}+)*\)"
_BRANCH = rf"\^?(?:{_ATOM}[*+]?|{_CHOICE})+\$?"
_SIMPLE_PATTERN = re.compile(rf"{_BRANCH}(?:\|{_BRANCH})*")
_MAX_REPETITIONS = 2
_MAX_CHOICES = 4


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """peft's settings of one network's adapter; `alpha` is None if the file states none.

    `alpha_pattern` has alphas by an expression for names of layers. `ignored_patterns` are those
    that are not evaluated.
    """

    alpha: float | None = None
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilized: bool = False
    ignored_patterns: tuple[str, ...] = ()

    def scale(self, layer: str, rank: int, stored_alpha: float | None) -> float:
        """Return the factor of a layer's change.

        Args:
            layer: module name of the layer.
            rank: rank of its factors.
            stored_alpha: alpha of the layer's own tensor, which precedes the settings; None if it
                has none.
        """
        alpha = stored_alpha
        if alpha is None:
            alpha = self._pattern_alpha(layer)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)

    def _pattern_alpha(self, layer: str) -> float | None:
        for pattern, alpha in self.alpha_pattern.items():
            # As in peft, a pattern is a regular expression for the end of the module's name.
            if re.fullmatch(rf"(.*\.)?({pattern})", layer):
                return alpha
        return self.alpha


def adapter_settings(
    metadata: Mapping[str, str], parts: tuple[str, ...]
) -> dict[str, AdapterSettings]:
    """Return peft's settings by network from a safetensors file's metadata.

    Networks without settings, and settings of the wrong type, have the defaults.

    Args:
        metadata: the file's `__metadata__`.
        parts: names of the networks.
    """
    try:
        content: Any = json.loads(metadata.get(_METADATA_KEY, "{}"))
    except (ValueError, RecursionError):
        content = {}
    if not isinstance(content, dict):
        content = {}
    found = {}
    for part in parts:
        own = {
            key.removeprefix(f"{part}."): value
            for key, value in content.items()
            if key.startswith(f"{part}.")
        }
        # A file of one network may have the settings without its name.
        own = own or {key: value for key, value in content.items() if "." not in key}
        patterns = own.get("alpha_pattern")
        patterns = patterns if isinstance(patterns, dict) else {}
        found[part] = AdapterSettings(
            alpha=_number(own.get("lora_alpha")),
            alpha_pattern={
                name: alpha
                for name, value in patterns.items()
                if _is_simple(name) and (alpha := _number(value)) is not None
            },
            ignored_patterns=tuple(name for name in patterns if not _is_simple(name)),
            is_rank_stabilized=own.get("use_rslora") is True,
        )
    return found


def _is_simple(pattern: str) -> bool:
    """Return whether a pattern is an expression that is quickly matched with any name."""
    if (
        _SIMPLE_PATTERN.fullmatch(pattern) is None
        or pattern.count("*") + pattern.count("+") > _MAX_REPETITIONS
        or pattern.count("(") > _MAX_CHOICES
    ):
        return False
    try:
        re.compile(pattern)
    except re.error:
        # A class of characters may have a range that ends before it begins.
        return False
    return True


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]
