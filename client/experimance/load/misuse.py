"""What is said to somebody who asked for what cannot be done."""

from __future__ import annotations

from collections.abc import Iterable


class Misuse(ValueError):
    """An option or a key of a scenario file that is not accepted; the message says what is."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


def listed(names: Iterable[str]) -> str:
    """Names as a sentence has them."""
    return ", ".join(names)
