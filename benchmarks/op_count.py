"""Operators of a piece of work, counted: those that launch a kernel, and those that wait for one.

On the meta device, which stands for a GPU here: its tensors hold nothing, so whatever needs their
values on the host cannot go unnoticed.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ATTENTION = "scaled_dot_product_attention"

# They change how memory is looked at, or only reserve it.
_VIEWS = frozenset(
    {
        "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "empty", "empty_like",
        "empty_strided", "expand", "lift_fresh", "new_empty", "permute", "select", "slice",
        "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
    }
)  # fmt: skip
_WAITING = frozenset({"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select"})


class OperatorCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what touches the device while it is entered.

    `launches` by operator, without views; `waits` by operator: reads of device values by the host
    (`item`, `nonzero`, copies from the device), each of which drains the device's queue.
    """

    def __init__(self, device: str = "meta") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._inside = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Count one operator and run it."""
        kwargs = kwargs or {}
        # In inference mode composite operators arrive whole.
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in _leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        from_device = any(tensor.device.type == self._device for tensor in tensors)
        to_host = _to_host(kwargs.get("device"))
        if from_device and (name in _WAITING or (name in {"_to_copy", "copy_"} and to_host)):
            self.waits[name] += 1
            return _stand_in(name, args)
        result = func(*args, **kwargs)
        onto_device = any(
            isinstance(leaf, torch.Tensor) and leaf.device.type == self._device
            for leaf in _leaves(result)
        )
        if (from_device or onto_device) and name not in _VIEWS and not self._inside:
            self.launches[name] += 1
        return result


class _Attention(TorchFunctionMode):
    """One launch for attention, which a GPU has one kernel for and the meta device has not."""

    def __init__(self, count: OperatorCount) -> None:
        super().__init__()
        self._count = count

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Count attention as a whole, and let everything else pass."""
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self._count.launches[ATTENTION] += 1
        self._count._inside += 1
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._count._inside -= 1


@contextlib.contextmanager
def counting(count: OperatorCount) -> Iterator[None]:
    """Count what runs on this thread."""
    with count, _Attention(count):
        yield


def _leaves(tree: Any) -> list[Any]:
    leaves: list[Any] = torch.utils._pytree.tree_leaves(tree)
    return leaves


def _to_host(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cpu"


def _stand_in(name: str, args: Any) -> Any:
    """Something in place of a value that is not there."""
    if name == "_local_scalar_dense":
        return 1.0
    if name in {"is_nonzero", "equal"}:
        return True
    shape = args[0].shape if name in {"_to_copy", "copy_"} else (1, args[0].dim())
    dtype = args[0].dtype if name in {"_to_copy", "copy_"} else torch.int64
    return torch.zeros(shape, dtype=dtype)
