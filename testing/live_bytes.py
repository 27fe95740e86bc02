"""Peak tensor memory of a function, measured on the meta device."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from testing.operator_mode import OperatorMode, tensors_in


class LiveBytes(OperatorMode):  # type: ignore[no-untyped-call]
    """Tracks every storage that an operator allocates while it watches, until it is freed.

    Existing storages (weights, inputs) do not count, nor does an allocator's rounding or caching.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._users: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}

    def operator(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator and track its result.

        Args:
            func: the operator.
            args: its positional arguments.
            kwargs: its keyword arguments.
        """
        # The compiler's decompositions take more memory than a card's kernels, so that the counts,
        # which know no kernel's workspace, are on the safe side.
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        known = {_storage(tensor) for tensor in tensors_in((args, kwargs))}
        result = func(*args, **kwargs)
        for tensor in tensors_in(result):
            self.follow(tensor, known)
        return result

    def attention(self, result: torch.Tensor) -> None:
        """Track the result alone, because a GPU's kernel allocates no attention matrix."""
        self.follow(result, set())

    def follow(self, tensor: torch.Tensor, known: set[int]) -> None:
        """Track a tensor's storage, unless it is in `known`."""
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
    """Return the peak in bytes; the function's result is kept alive meanwhile."""
    live = LiveBytes()
    with live.watching():
        result = work()
    del result
    return live.peak


def _storage(tensor: torch.Tensor) -> int:
    # Storages on the meta device have no public identity: their data_ptr() is 0.
    address: int = tensor.untyped_storage()._cdata  # noqa: SLF001
    return address
