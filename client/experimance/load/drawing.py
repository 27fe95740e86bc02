"""A matplotlib figure that becomes part of a page."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experimance.load.colours import GRID, INK, MUTED, themed

# Width in points: on a telephone a point is about a pixel, and text keeps its size.
_WIDTH, _HEIGHT, _TALL = 340.0, 200.0, 1.5
# Keys are literals in matplotlib's types.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.0,
    "font.family": "sans-serif",
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.2,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
}


class Drawing:
    """One or more plots above one another that share their horizontal axis."""

    def __init__(self, name: str, title: str, rows: int = 1, *, tall: bool = False) -> None:
        self.name = name
        self.title = title
        with matplotlib.rc_context(_STYLE):
            height = _HEIGHT * (_TALL if tall else 1.0)
            self._figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
            found = self._figure.subplots(rows, 1, sharex=True, squeeze=False)
        self.axes: list[Axes] = [axes for (axes,) in found]

    def legend(self, axes: Axes, columns: int = 3) -> None:
        """Above the plot, where it covers nothing."""
        with matplotlib.rc_context(_STYLE):
            handles, labels = axes.get_legend_handles_labels()
            if handles:
                axes.legend(
                    handles, labels, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns,
                    borderaxespad=0.2,
                )  # fmt: skip

    def svg(self, alternative: str) -> str:
        """The SVG element, in the page's colours.

        Args:
            alternative: says what is to be seen, for those who do not see it.
        """
        buffer = io.StringIO()
        # The salt makes ids of clip paths differ between the drawings of a page.
        style = {**_STYLE, "svg.hashsalt": self.name}
        with matplotlib.rc_context(style):
            self._figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        # Groups are named alike in every drawing, and nothing refers to them.
        text = re.sub(r'<g id="[^"]*"', "<g", text)
        text = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", text)
        text = re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1", text)
        text = text.replace("<svg", f'<svg role="img" aria-label="{escape(alternative)}"', 1)
        return themed(text)
