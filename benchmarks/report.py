"""How a benchmark ends: one JSON line, and an exit status."""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn


def finish(figure: float | dict[str, Any], bar: Any, passed: bool, **context: Any) -> NoReturn:
    """Print the result as one JSON line and exit: 0 at or above the bar, 1 below."""
    print(json.dumps({"figure": figure, "bar": bar, "pass": passed, **context}))
    sys.exit(0 if passed else 1)
