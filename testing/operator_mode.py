"""Interception of every operator of a function, decomposed as on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_COMPOSITE = torch.DispatchKey.CompositeImplicitAutograd


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

    def construction(self, device: Any) -> None:
        """Record a tensor that is made of Python's numbers on a device, None for the default."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Decompose composite operators and pass the others to `operator`."""
        kwargs = kwargs or {}
        # Fake tensors report their device through an operator of their own.
        if func.namespace == "prim" or self.is_inside_attention:
            return func(*args, **kwargs)
        if is_composite(func):
            with self:
                return decomposed(func, args, kwargs)
        return self.operator(func, args, kwargs)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch this thread for the duration of the context."""
        with self, _Functions(self):
            yield


class _Functions(TorchFunctionMode):
    def __init__(self, mode: OperatorMode) -> None:
        super().__init__()
        self._mode = mode

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Report attention and constructions as a whole, and pass everything else through."""
        if func in {torch.tensor, torch.as_tensor, torch.asarray}:
            self._mode.construction((kwargs or {}).get("device"))
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self._mode.is_inside_attention = True
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self._mode.is_inside_attention = False
        self._mode.attention(result)
        return result


@cache
def is_composite(func: Any) -> bool:
    """Return whether an operator consists of others, on every device."""
    # torch has no public question for this, and its `decompose` prefers the compiler's
    # decompositions in Python, which are slower and launch other kernels.
    found: bool = torch._C._dispatch_has_kernel_for_dispatch_key(  # noqa: SLF001
        func.name(), _COMPOSITE
    )
    return found


def decomposed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run a composite operator as eager mode does; the modes in force see its parts."""
    return func._op_dk(_COMPOSITE, *args, **kwargs)  # noqa: SLF001


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """Return the tensors in arguments or results."""
    # torch has no public module for nested arguments.
    leaves = torch.utils._pytree.tree_leaves(tree)  # noqa: SLF001
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
