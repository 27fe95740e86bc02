"""Changes of a layer's weight by adapters of all families, for one layer or many equal ones.

Weights are matrices here: [out, columns], where the columns of a convolution are its input
channels times its kernel. All functions take a leading dimension N of layers with equal shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """LoRA or LoCon (arXiv:2106.09685): up @ down, with the scale folded into `up`.

    Shapes: `down` [r, in] and `up` [out, r] for a linear layer, `down` [r, in, k, k] and `up`
    [out, r, 1, 1] for a convolution.
    """

    down: torch.Tensor
    up: torch.Tensor

    @staticmethod
    def delta(down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Return [N, out, columns] from the stacked factors."""
        return up.flatten(2) @ down.flatten(2)


@dataclass(frozen=True, slots=True, eq=False)
class Hadamard:
    """LoHa (arXiv:2108.06098): (w1_a @ w1_b) * (w2_a @ w2_b), with the scale folded into `w1_a`.

    Shapes: `w1_a` and `w2_a` [out, r], `w1_b` and `w2_b` [r, columns].
    """

    w1_a: torch.Tensor
    w1_b: torch.Tensor
    w2_a: torch.Tensor
    w2_b: torch.Tensor

    @staticmethod
    def delta(
        w1_a: torch.Tensor, w1_b: torch.Tensor, w2_a: torch.Tensor, w2_b: torch.Tensor
    ) -> torch.Tensor:
        """Return [N, out, columns] from the stacked factors."""
        return (w1_a @ w1_b).mul_(w2_a @ w2_b)


@dataclass(frozen=True, slots=True, eq=False)
class Kronecker:
    """LoKr (arXiv:2309.14859): the Kronecker product of `w1` [o1, i1] and `w2` [o2, c2].

    The scale is folded into `w1`; `out` is o1 * o2, and the columns are i1 * c2.
    """

    w1: torch.Tensor
    w2: torch.Tensor

    @staticmethod
    def delta(w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
        """Return [N, out, columns] from the stacked factors."""
        product = w1[:, :, None, :, None] * w2[:, None, :, None, :]
        layers, o1, o2, i1, c2 = product.shape
        return product.reshape(layers, o1 * o2, i1 * c2)


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """Difference of whole weights, `weight` [out, columns]; [1, C] for a normalisation."""

    weight: torch.Tensor

    @staticmethod
    def delta(weight: torch.Tensor) -> torch.Tensor:
        """Return the stacked differences."""
        return weight


Change = LowRank | Hadamard | Kronecker | Difference


@dataclass(frozen=True, slots=True, eq=False)
class AdapterLayer:
    """What an adapter changes in one layer, in the network's dtype.

    `magnitude` is DoRA's (arXiv:2402.09353) in float32: [out, 1, 1] with one value per output, or
    [1, in, 1] with one per input channel. `bias` has the shape of the layer's bias.
    """

    weight: Change | None
    magnitude: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    @property
    def is_low_rank(self) -> bool:
        """Whether the layer's weight changes by a plain low-rank product."""
        return isinstance(self.weight, LowRank) and self.magnitude is None

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (*factors_of(self.weight), self.magnitude, self.bias)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def factors_of(change: Change | None) -> tuple[torch.Tensor, ...]:
    """Return the tensors of a change, in the order of its family's `delta`."""
    if change is None:
        return ()
    return tuple(getattr(change, name) for name in change.__dataclass_fields__)


def stacked_delta(
    changes: Sequence[tuple[Change, torch.Tensor | None]], weights: torch.Tensor, channels: int
) -> torch.Tensor:
    """Return the changes that one adapter makes to the weights of equal layers.

    Args:
        changes: change and magnitude of N layers, of one family and with equal shapes.
        weights: pristine weights, float32 [N, out, columns].
        channels: input channels of the layers; a divisor of the columns.

    Returns:
        float32 [N, out, columns].
    """
    columns = zip(*(factors_of(change) for change, _ in changes), strict=True)
    factors = [torch.stack(column).float() for column in columns]
    delta = type(changes[0][0]).delta(*factors).view(weights.shape)
    magnitudes = [magnitude for _, magnitude in changes if magnitude is not None]
    if not magnitudes:
        return delta
    magnitude = torch.stack(magnitudes)
    changed = (weights + delta).view(*weights.shape[:2], channels, -1)
    per_output = magnitude.shape[1] == weights.shape[1]
    norm = torch.linalg.vector_norm(changed, dim=(2, 3) if per_output else (1, 3), keepdim=True)
    # As in LyCORIS, a weight of zeros stays one.
    norm.clamp_min_(torch.finfo(torch.float32).eps)
    return changed.mul_(magnitude / norm).view(weights.shape) - weights
