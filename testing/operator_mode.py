"""Interception of every operator of a function, decomposed as on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class OperatorMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Base class of modes that receive each operator while they watch.

    Composite operators, which inference mode dispatches whole, arrive decomposed. Attention arrives
    as one call of `attention`, because a GPU has one kernel for it and the meta device has none.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_inside_attention = False

    def operator(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator and return its result.

        Args:
            func: the operator.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Raises:
            NotImplementedError: The subclass does not override it.
        """
        raise NotImplementedError

    def attention(self, result: torch.Tensor) -> None:
        """Record one attention; its component operators are not reported.

        Raises:
            NotImplementedError: The subclass does not override it.
        """
        raise NotImplementedError

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Decompose composite operators and pass the others to `operator`."""
        kwargs = kwargs or {}
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        if self.is_inside_attention:
            return func(*args, **kwargs)
        return self.operator(func, args, kwargs)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch this thread for the duration of the context."""
        with self, _Attention(self):
            yield


class _Attention(TorchFunctionMode):
    def __init__(self, mode: OperatorMode) -> None:
        super().__init__()
        self._mode = mode

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Report attention as a whole, and pass everything else through."""
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self._mode.is_inside_attention = True
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self._mode.is_inside_attention = False
        self._mode.attention(result)
        return result


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """Return the tensors in arguments or results."""
    # torch has no public module for nested arguments.
    leaves = torch.utils._pytree.tree_leaves(tree)  # noqa: SLF001
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
