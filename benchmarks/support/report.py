"""What a benchmark says: tables for people, and at the end one JSON line and an exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, NoReturn


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Rows by name, each with the same figures, under their headings."""
    lines = [["", *next(iter(rows.values()))]]
    lines += [[name, *(f"{value:.4g}" for value in row.values())] for name, row in rows.items()]
    return "\n".join(f"{name:<12}" + "".join(f"{c:>14}" for c in cells) for name, *cells in lines)


def finish(figure: float | dict[str, Any], bar: Any, passed: bool, **context: Any) -> NoReturn:
    """Print the result as one JSON line and exit: 0 at or above the bar, 1 below."""
    print(json.dumps({"figure": figure, "bar": bar, "pass": passed, **context}))
    sys.exit(0 if passed else 1)
