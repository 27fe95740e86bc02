"""Operator counts of a function: kernel launches, host synchronizations, and copies to the device.

The meta device stands in for a GPU. Its tensors have no values, so every read of a value by the
host is detected.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from testing.operator_mode import OperatorMode, tensors_in

ATTENTION = "scaled_dot_product_attention"

# These create views or allocate memory, without a kernel launch.
_VIEWS = frozenset(
    {
        "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "empty", "empty_like",
        "empty_strided", "expand", "lift_fresh", "new_empty", "permute", "select", "slice",
        "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
    }
)  # fmt: skip
_INDEXING = frozenset({"index", "index_put", "index_put_"})
_WAITING = frozenset({"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select"})


class OperatorCount(OperatorMode):  # type: ignore[no-untyped-call]
    """Counter of device operators while it watches.

    Attributes:
        launches: kernel launches by operator, without views.
        waits: reads of device values by the host, by operator (`item`, `nonzero`, copies from the
            device); each drains the device's queue.
        copies: copies from the host to the device, by operator.
        blocking: those of `copies` for which the host waits, as for a read.
    """

    def __init__(self, device: str = "meta") -> None:
        super().__init__()
        self._device = device
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.blocking: Counter[str] = Counter()

    def operator(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Count one operator and run it.

        Args:
            func: the operator.
            args: its positional arguments.
            kwargs: its keyword arguments.
        """
        name = func.overloadpacket.__name__
        from_device = self._on_device((args, kwargs))
        to_host = _to_host(kwargs.get("device"))
        if name == "copy_" and args[0].device.type == "cpu" and args[1].device.type == self._device:
            to_host = not _is_non_blocking(name, args, kwargs)
        if from_device and (name in _WAITING or (name in {"_to_copy", "copy_"} and to_host)):
            self.waits[name] += 1
            return _stand_in(name, args)
        if self._copies_to_device(name, args, kwargs):
            self.copies[name] += 1
            if not _is_non_blocking(name, args, kwargs):
                self.blocking[name] += 1
        result = func(*args, **kwargs)
        if (from_device or self._on_device(result)) and name not in _VIEWS:
            self.launches[name] += 1
        return result

    def attention(self, result: torch.Tensor) -> None:
        """Count one launch."""
        self.launches[ATTENTION] += 1

    def construction(self, device: Any) -> None:
        """Count a tensor that is made of Python's numbers on the device as one copy."""
        if device is not None and torch.device(device).type == self._device:
            self.copies["tensor"] += 1
            self.blocking["tensor"] += 1

    def _copies_to_device(self, name: str, args: Any, kwargs: dict[str, Any]) -> bool:
        if name == "_to_copy":
            to_device = kwargs.get("device") is not None and not _to_host(kwargs["device"])
            return to_device and args[0].device.type == "cpu"
        if name == "copy_":
            return (
                args[0].device.type != "cpu" and args[1].device.type == "cpu" and args[1].dim() > 0
            )
        # An index in host memory is copied before its use.
        return (
            name in _INDEXING
            and args[0].device.type != "cpu"
            and any(tensor.device.type == "cpu" for tensor in tensors_in(args[1:]))
        )

    def _on_device(self, tree: Any) -> bool:
        return any(tensor.device.type == self._device for tensor in tensors_in(tree))


def _is_non_blocking(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    if name == "copy_" and len(args) > 2:
        return bool(args[2])
    return bool(kwargs.get("non_blocking"))


def _to_host(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cpu"


def _stand_in(name: str, args: Any) -> Any:
    """Return a placeholder for a value that the meta device does not have."""
    if name == "_local_scalar_dense":
        return 1.0
    if name in {"is_nonzero", "equal"}:
        return True
    shape = args[0].shape if name in {"_to_copy", "copy_"} else (1, args[0].dim())
    dtype = args[0].dtype if name in {"_to_copy", "copy_"} else torch.int64
    return torch.zeros(shape, dtype=dtype)
