"""The most bytes that tensors take at once during a piece of work, on the meta device."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from testing.operator_mode import OperatorMode, tensors_in


class LiveBytes(OperatorMode):  # type: ignore[no-untyped-call]
    """Follows every storage that an operator makes while it is watching, until it is freed.

    What existed before (weights, inputs) does not count, and what an allocator rounds up or keeps
    is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._users: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}

    def operator(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator and follow what it made."""
        known = {_storage(tensor) for tensor in tensors_in((args, kwargs))}
        result = func(*args, **kwargs)
        for tensor in tensors_in(result):
            self.follow(tensor, known)
        return result

    def attention(self, result: torch.Tensor) -> None:
        """Its result, and no matrix of all pairs, which a GPU's kernel does not make."""
        self.follow(result, set())

    def follow(self, tensor: torch.Tensor, known: set[int]) -> None:
        """Count a tensor's storage, unless it is one of `known` that is not followed."""
        storage = _storage(tensor)
        if tensor.device.type != "meta" or (storage in known and storage not in self._sizes):
            return
        if storage not in self._sizes:
            self._sizes[storage] = tensor.untyped_storage().nbytes()
            self.now += self._sizes[storage]
            self.peak = max(self.peak, self.now)
        self._users[storage] += 1
        weakref.finalize(tensor, self._release, storage)

    def _release(self, storage: int) -> None:
        self._users[storage] -= 1
        if not self._users[storage]:
            del self._users[storage]
            self.now -= self._sizes.pop(storage)


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes at once; what the work returns is held until its end."""
    live = LiveBytes()
    with live.watching():
        result = work()
    del result
    return live.peak


def _storage(tensor: torch.Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
