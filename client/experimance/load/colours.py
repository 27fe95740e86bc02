"""Colours of plots that a page fills in: each is drawn as a stand-in, and becomes a variable."""

from __future__ import annotations

import re
from collections.abc import Mapping

INK, MUTED, GRID = "#010101", "#020202", "#030303"
BLUE, TEAL, AMBER, VIOLET, RED, GREY = (
    "#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006",
)  # fmt: skip
_VARIABLES: Mapping[str, str] = {
    INK: "ink", MUTED: "muted", GRID: "grid", BLUE: "blue", TEAL: "teal", AMBER: "amber",
    VIOLET: "violet", RED: "red", GREY: "grey",
}  # fmt: skip
_STAND_IN = re.compile("|".join(_VARIABLES))


def themed(svg: str) -> str:
    """An SVG whose stand-ins are the page's variables, so that it is light or dark as that is."""
    return _STAND_IN.sub(lambda found: f"var(--{_VARIABLES[found[0]]})", svg)
