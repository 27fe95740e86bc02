"""The most bytes that tensors take at once during a piece of work, on the meta device."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that an operator makes while it is entered, until it is freed.

    What existed before (weights, inputs) does not count, and what an allocator rounds up or keeps
    is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._users: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self.paused = False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run one operator and follow what it made."""
        with self:
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        known = {_storage(leaf) for leaf in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        if not self.paused:
            for tensor in _tensors(result):
                self.follow(tensor, known)
        return result

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


class _WholeAttention(TorchFunctionMode):
    """Attention as a GPU's kernel does it: the result, and no matrix of all pairs."""

    def __init__(self, live: LiveBytes) -> None:
        super().__init__()
        self._live = live

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Follow the result of attention alone, and let everything else pass."""
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self._live.paused = True
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self._live.paused = False
        self._live.follow(result, set())
        return result


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes at once; what the work returns is held until its end."""
    live = LiveBytes()
    with live, _WholeAttention(live):
        result = work()
    del result
    return live.peak


def _storage(tensor: torch.Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _tensors(tree: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
