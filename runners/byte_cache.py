"""What was made last, within a bound of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteCache(Generic[K, V]):
    """Values by key; what was asked for longest ago goes when they come to more than `bound` bytes.

    The last one stays however large it is. For one thread.

    Args:
        bound: in bytes.
        size_of: the bytes that a value holds.
        most: how many values, however small they are; None is no bound.
    """

    def __init__(self, bound: int, size_of: Callable[[V], int], most: int | None = None) -> None:
        self._bound = bound
        self._size_of = size_of
        self._most = most
        self._values: OrderedDict[K, V] = OrderedDict()
        self.held = 0
        """Bytes of all values."""

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made now if it is not there."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = make()
        self.held += self._size_of(value)
        while len(self._values) > 1 and self._full:
            _, dropped = self._values.popitem(last=False)
            self.held -= self._size_of(dropped)
        return value

    def clear(self) -> None:
        """Let go of everything."""
        self._values.clear()
        self.held = 0

    @property
    def _full(self) -> bool:
        many = self._most is not None and len(self._values) > self._most
        return many or self.held > self._bound
