"""Output of a benchmark: tables, and at the end one JSON line and an exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, NoReturn


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Format rows by name under the headings of their figures, which must be equal."""
    lines = [["", *next(iter(rows.values()))]]
    lines += [[name, *(f"{value:.4g}" for value in row.values())] for name, row in rows.items()]
    return "\n".join(f"{name:<12}" + "".join(f"{c:>14}" for c in cells) for name, *cells in lines)


def finish(figure: float | dict[str, Any], bar: Any, passed: bool, **context: Any) -> NoReturn:
    """Print the result as one JSON line, and exit.

    Args:
        figure: the measured figure, or figures by name.
        bar: the limit, or limits by name.
        passed: whether the figures are within their limits.
        **context: further keys of the JSON line.

    Raises:
        SystemExit: always; status 0 if passed, 1 if not.
    """
    print(json.dumps({"figure": figure, "bar": bar, "pass": passed, **context}))
    sys.exit(0 if passed else 1)
