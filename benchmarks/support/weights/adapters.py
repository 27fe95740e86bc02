"""Adapter files applied by the runner's LoraManager, and compared with the right outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.support.weights.kind import Kind, Measure, Outcome, WrittenKind
from common.protocol import LoraMode, LoraWeight
from models.store.store import CatalogEntry
from runners.networks.lora.manager import LoraManager
from runners.networks.lora.working_copy import WorkingCopy
from testing.weight_files.adapter_case import AdapterFileCase
from testing.weight_files.networks import Networks, Outputs, demo_parts, encode, outputs
from testing.weight_files.predictions import predict

MODES: tuple[LoraMode, ...] = ("merged", "low_rank")
MIN_EFFECT = 1e-2
"""Smallest effect on a network's outputs with which a kind shows anything."""

MakeCase = Callable[[Networks], AdapterFileCase]
Reference = Callable[[Path, float], Outputs]
"""Function from a file and a strength to the outputs that another program gives."""


def adapter_kind(
    name: str,
    make: MakeCase,
    outcome: Outcome = "exact",
    named: tuple[str, ...] = (),
    strength: float = 1.0,
    reference: Reference | None = None,
) -> Kind:
    """Return the kind of an adapter file that is applied.

    Args:
        name: name of the kind.
        make: function that makes the file's tensors, with the weights at strength 1.
        outcome: what the import must make of it.
        named: words of the note.
        strength: strength at which it is applied.
        reference: another program's outputs; by default those of the expected weights.
    """

    def write(folder: Path) -> WrittenKind:
        case = make(demo_parts())
        file = case.save(folder / "own.safetensors")
        if reference is None:
            right = outputs(demo_parts().changed((case, strength)))
        else:
            right = reference(file, strength)
        return written_adapter(file, measure_adapter(right, strength))

    return Kind(name, outcome, write, named)


def refused_adapter(
    name: str, named: tuple[str, ...], write_file: Callable[[Path], object]
) -> Kind:
    """Return the kind of a file that is named as a LoRA and must be refused.

    Args:
        name: name of the kind.
        named: words of the refusal.
        write_file: function that writes the file at a path.
    """

    def write(folder: Path) -> WrittenKind:
        file = folder / "own.safetensors"
        write_file(file)
        return written_adapter(file, None)

    return Kind(name, "refused", write, named)


def written_adapter(file: Path, measure: Measure | None) -> WrittenKind:
    """Return the catalog's entry of an adapter file."""
    name = file.parent.name
    lines = f'\n[loras.{name}]\nsource = "file:{file}"\nlicence = "none"\n'
    return WrittenKind("loras", name, lines, measure)


def measure_adapter(right: Outputs, strength: float = 1.0) -> Measure:
    """Return the function that applies an entry in both modes and measures its largest error.

    Args:
        right: the right outputs.
        strength: strength of the adapter.
    """

    def measure(entry: CatalogEntry) -> float:
        (file,) = entry.components["lora"].path.glob("*.safetensors")
        plain = outputs(demo_parts())
        return max(
            relative_error(found, right, plain)
            for mode in MODES
            for found in [apply_adapter(file, strength, mode, plain)]
        )

    return measure


def apply_adapter(
    file: Path, strength: float, mode: LoraMode, plain: Outputs
) -> dict[str, torch.Tensor]:
    """Return the demo networks' outputs with an adapter of the store.

    Args:
        file: the adapter's file.
        strength: its strength.
        mode: how the runner applies it to the UNet.
        plain: outputs of the networks without it.

    Raises:
        RuntimeError: the adapter's effect outlasts its activation.
    """
    networks = demo_parts().copied()
    copied = WorkingCopy() if mode == "merged" else None
    manager = LoraManager(networks.unet, networks.text_encoders, copied)
    manager.add("own", file)
    loras = [LoraWeight("own", strength)]
    with manager.activate(loras):
        found = {"unet": predict(networks.unet)}
    with manager.activate_text(loras):
        found |= encode(networks.text_encoders)
    with manager.activate([]), manager.activate_text([]):
        after = outputs(networks)
    if any(not torch.equal(after[part], plain[part]) for part in plain):
        raise RuntimeError("the adapter's effect outlasts its activation")
    return found


def relative_error(found: Outputs, right: Outputs, plain: Outputs) -> float:
    """Return the largest error of a network's outputs, relative to the right effect.

    Args:
        found: outputs to judge.
        right: the right outputs.
        plain: outputs without the adapter.

    Raises:
        ValueError: the right effect is too small on every network to show anything.
    """
    worst, largest = 0.0, 0.0
    for part, expected in right.items():
        effect = float((expected - plain[part]).abs().max())
        error = float((found[part] - expected).abs().max())
        largest = max(largest, effect)
        if effect == 0.0:
            # A network without changed weights has bit-identical outputs.
            worst = max(worst, float("inf") if error else 0.0)
        elif not error / effect <= worst:
            worst = error / effect
    if not largest > MIN_EFFECT:
        raise ValueError(f"the kind changes outputs by no more than {largest:.1e}")
    return worst
