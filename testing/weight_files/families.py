"""Families of adapters: their tensors for one layer, with the weight that they should give.

The expected weights are the formulae of the families' authors, in float64, written independently
of the service's own. Every function adds a layer to a case, with alpha and rank of its own.
"""

from __future__ import annotations

from typing import Any

import torch

from testing.weight_files.adapter_case import AdapterFileCase, Random, Write, add, kohya


def write_lora(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
    """LoRA and LoCon: up @ down * alpha / rank."""
    rank, key = 4, kohya(layer)
    outputs, *inputs = module.weight.shape
    down = random(rank, *inputs, scale=0.3)
    up = random(outputs, rank, *(1 for _ in inputs[1:]), scale=0.1)
    case.state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
    case.state[f"{key}.alpha"] = torch.tensor(2.0)
    add(case, layer, module, up.flatten(1) @ down.flatten(1) * (2.0 / rank))


def write_tucker(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
    """LyCORIS' LoCon with `use_tucker`: two 1x1 factors around a core of the kernel's size."""
    rank, key = 3, kohya(layer)
    outputs, inputs, *kernel = module.weight.shape
    down, up = random(rank, inputs, 1, 1, scale=0.3), random(outputs, rank, 1, 1, scale=0.2)
    mid = random(rank, rank, *kernel, scale=0.3)
    case.state |= {
        f"{key}.lora_down.weight": down, f"{key}.lora_mid.weight": mid,
        f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1.5),
    }  # fmt: skip
    delta = torch.einsum("or,rshw,si->oihw", up[..., 0, 0], mid, down[..., 0, 0])
    add(case, layer, module, delta * (1.5 / rank))


def write_loha(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
    """LoHa: (w1_a @ w1_b) * (w2_a @ w2_b) * alpha / rank."""
    rank, key = 3, kohya(layer)
    outputs, columns = module.weight.flatten(1).shape
    factors = {}
    for number in "12":
        factors[f"hada_w{number}_a"] = random(outputs, rank, scale=0.3)
        factors[f"hada_w{number}_b"] = random(rank, columns, scale=0.3)
    case.state |= {f"{key}.{name}": tensor for name, tensor in factors.items()}
    case.state[f"{key}.alpha"] = torch.tensor(1.0)
    first = factors["hada_w1_a"] @ factors["hada_w1_b"]
    second = factors["hada_w2_a"] @ factors["hada_w2_b"]
    add(case, layer, module, first * second / rank)


def write_loha_tucker(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
    """LoHa with `use_tucker`: each product has a core of the kernel's size."""
    rank, key = 3, kohya(layer)
    outputs, inputs, *kernel = module.weight.shape
    products = []
    for number in "12":
        core = random(rank, rank, *kernel, scale=0.5)
        a, b = random(rank, outputs, scale=0.4), random(rank, inputs, scale=0.4)
        case.state |= {
            f"{key}.hada_t{number}": core, f"{key}.hada_w{number}_a": a,
            f"{key}.hada_w{number}_b": b,
        }  # fmt: skip
        products.append(torch.einsum("ijkl,jr,ip->prkl", core, b, a))
    case.state[f"{key}.alpha"] = torch.tensor(2.0)
    add(case, layer, module, products[0] * products[1] * (2.0 / rank))


def write_lokr(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
    """LoKr of two whole factors: alpha has no effect."""
    key = kohya(layer)
    outputs, inputs, *kernel = module.weight.shape
    w1 = random(4, 4, scale=0.2)
    w2 = random(outputs // 4, inputs // 4, *kernel, scale=0.1)
    case.state |= {
        f"{key}.lokr_w1": w1, f"{key}.lokr_w2": w2, f"{key}.alpha": torch.tensor(1.0)
    }  # fmt: skip
    add(case, layer, module, torch.kron(w1.reshape(4, 4, *(1 for _ in kernel)), w2))


def write_lokr_factored(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
    """LoKr with a low-rank second factor: alpha / rank."""
    rank, key = 2, kohya(layer)
    outputs, inputs, *kernel = module.weight.shape
    columns = inputs // 4
    for size in kernel:
        columns *= size
    w1 = random(4, 4, scale=0.2)
    a, b = random(outputs // 4, rank, scale=0.3), random(rank, columns, scale=0.3)
    case.state |= {
        f"{key}.lokr_w1": w1, f"{key}.lokr_w2_a": a, f"{key}.lokr_w2_b": b,
        f"{key}.alpha": torch.tensor(1.0),
    }  # fmt: skip
    w2 = (a @ b).reshape(outputs // 4, inputs // 4, *kernel)
    delta = torch.kron(w1.reshape(4, 4, *(1 for _ in kernel)), w2) / rank
    add(case, layer, module, delta)


def write_lokr_both(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
    """LoKr with two low-rank factors (`decompose_both`)."""
    rank, key = 2, kohya(layer)
    outputs, inputs = module.weight.shape
    a1, b1 = random(4, rank, scale=0.4), random(rank, 4, scale=0.4)
    a2, b2 = random(outputs // 4, rank, scale=0.3), random(rank, inputs // 4, scale=0.3)
    case.state |= {
        f"{key}.lokr_w1_a": a1, f"{key}.lokr_w1_b": b1, f"{key}.lokr_w2_a": a2,
        f"{key}.lokr_w2_b": b2, f"{key}.alpha": torch.tensor(3.0),
    }  # fmt: skip
    add(case, layer, module, torch.kron(a1 @ b1, a2 @ b2) * (3.0 / rank))


def write_lokr_tucker(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
    """LoKr with `use_tucker`: the second factor has a core of the kernel's size."""
    rank, key = 2, kohya(layer)
    outputs, inputs, *kernel = module.weight.shape
    w1, core = random(2, 2, scale=0.3), random(rank, rank, *kernel, scale=0.5)
    a, b = random(rank, outputs // 2, scale=0.3), random(rank, inputs // 2, scale=0.3)
    case.state |= {
        f"{key}.lokr_w1": w1, f"{key}.lokr_t2": core, f"{key}.lokr_w2_a": a,
        f"{key}.lokr_w2_b": b, f"{key}.alpha": torch.tensor(1.0),
    }  # fmt: skip
    w2 = torch.einsum("ijkl,jr,ip->prkl", core, b, a).contiguous()
    add(case, layer, module, torch.kron(w1[..., None, None], w2) / rank)


def write_difference(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
    """Difference of the whole weight, and of the bias."""
    key = kohya(layer)
    diff = random(*module.weight.shape, scale=0.02)
    case.state[f"{key}.diff"] = diff
    weight = module.weight.detach().double() + diff.double()
    bias = None
    if module.bias is not None:
        case.state[f"{key}.diff_b"] = random(*module.bias.shape, scale=0.05)
        bias = module.bias.detach().double() + case.state[f"{key}.diff_b"].double()
    case.expected[layer] = (weight, bias)


def write_norm(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
    """LyCORIS' `train_norm`: differences of a normalisation's scale and shift."""
    key = kohya(layer)
    w, b = (random(*module.weight.shape, scale=0.05) for _ in range(2))
    case.state |= {f"{key}.w_norm": w, f"{key}.b_norm": b}
    case.expected[layer] = (module.weight.detach().double() + w, module.bias.detach().double() + b)


def write_up_bias(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
    """Bias of the second factor, with the factor's scale (peft's `lora_bias`)."""
    outputs, inputs = module.weight.shape
    if module.bias is None:
        return
    down, up, bias = random(4, inputs, scale=0.3), random(outputs, 4, scale=0.1), random(outputs)
    key = f"unet.{layer}"
    case.state |= {
        f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up, f"{key}.lora_B.bias": bias,
        f"{key}.alpha": torch.tensor(2.0),
    }  # fmt: skip
    weight = module.weight.detach().double() + (up @ down).double() / 2
    case.expected[layer] = (weight, module.bias.detach().double() + bias.double() / 2)


def dora(write: Write, per_output: bool, peft: bool = False) -> Write:
    """DoRA on another family: m * (W + dW) / ||W + dW||, per output or per input channel."""

    def write_dora(case: AdapterFileCase, layer: str, module: Any, random: Random) -> None:
        write(case, layer, module, random)
        changed = case.expected[layer][0]
        dims = [dim for dim in range(changed.dim()) if dim != (0 if per_output else 1)]
        norm = changed.pow(2).sum(dims, keepdim=True).sqrt()
        magnitude = norm * (1.1 + 0.1 * random(*norm.shape))
        stored = magnitude.float().flatten() if peft else magnitude.float()
        name = "lora_magnitude_vector.weight" if peft else "dora_scale"
        case.state[f"{kohya(layer)}.{name}"] = stored
        case.expected[layer] = (magnitude * changed / norm, None)

    return write_dora
