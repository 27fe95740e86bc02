"""Every operator of a piece of work, seen as a GPU would run it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class OperatorMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls `operator` for each operator while it is watching.

    Composite operators, which arrive whole in inference mode, come as their parts; attention, which
    a GPU has one kernel for and the meta device has not, as one call of `attention`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inside_attention = False

    def operator(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator and return its result."""
        raise NotImplementedError

    def attention(self, result: torch.Tensor) -> None:
        """Attention has run; its own operators were not shown."""
        raise NotImplementedError

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Take composite operators apart and hand on the rest."""
        kwargs = kwargs or {}
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        if self._inside_attention:
            return func(*args, **kwargs)
        return self.operator(func, args, kwargs)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what runs on this thread."""
        with self, _Attention(self):
            yield


class _Attention(TorchFunctionMode):
    def __init__(self, mode: OperatorMode) -> None:
        super().__init__()
        self._mode = mode

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Tell of attention as a whole, and let everything else pass."""
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self._mode._inside_attention = True
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self._mode._inside_attention = False
        self._mode.attention(result)
        return result


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """The tensors among arguments or results."""
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
