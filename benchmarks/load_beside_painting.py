"""Loads of an SDXL UNet and of a LoRA while another variant paints, on a model of streams.

    python -m benchmarks.load_beside_painting

The copies are those that the loader issues at SDXL's size; their time is computed, because only a
GPU can measure it (`benchmarks.gpu_report`, section `loads`). A step of 0.1 s is always queued on
the device. A blocking copy on the steps' stream waits for it; a copy on a stream of its own does
not. The figures are the waits for queued steps, which are counted, and the modelled seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from benchmarks.support.report import finish, table
from runners.device import Device
from runners.networks.weight_upload import WeightUploader
from testing.random_networks import empty_networks

STEP_SECONDS = 0.1
HOST_BYTES_PER_SECOND = 5e9
"""Rate at which the host reads, casts and packs weights."""
BUS_BYTES_PER_SECOND = 20e9
MAX_WAITS = 1
LORA_RANK = 32


@dataclass
class ModelEvent:
    """Moment at which the copies before it have ended."""

    stream: ModelStream
    at: float

    def synchronize(self) -> None:
        """Let the host's clock reach the moment."""
        self.stream.host = max(self.stream.host, self.at)


class ModelStream:
    """Stream of copies that keeps a clock instead of copying.

    Attributes:
        host: seconds of the loading thread.
        waits: number of waits for a queued step.
    """

    def __init__(self) -> None:
        self.host = 0.0
        self.waits = 0
        self._free_at = 0.0

    def host_buffer(self, size: int) -> torch.Tensor:
        """Return host memory, uint8 [size]."""
        return torch.empty(size, dtype=torch.uint8)

    def device_buffer(self, size: int) -> torch.Tensor:
        """Return memory without contents, uint8 [size]; copies to it wait for the queued step."""
        self.waits += 1
        self._free_at = max(self._free_at, self.host + STEP_SECONDS)
        return torch.empty(size, dtype=torch.uint8, device="meta")

    def copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        """Account for packing a piece and for its copy."""
        self.host += len(source) / HOST_BYTES_PER_SECOND
        self._free_at = max(self._free_at, self.host) + len(source) / BUS_BYTES_PER_SECOND

    def record(self) -> ModelEvent:
        """Return the moment at which the copies so far have ended."""
        return ModelEvent(self, self._free_at)


def load_by_tensor(tensors: Mapping[str, torch.Tensor]) -> tuple[int, float]:
    """Return waits and seconds of one blocking copy for each tensor on the steps' stream."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    copying = size / HOST_BYTES_PER_SECOND + size / BUS_BYTES_PER_SECOND
    return len(tensors), len(tensors) * STEP_SECONDS + copying


def load_by_uploader(tensors: Mapping[str, torch.Tensor]) -> tuple[int, float]:
    """Return waits and seconds of the loader's own copies."""
    stream = ModelStream()
    device = Device(torch.device("cpu"), torch.float16)
    WeightUploader(device, stream).upload(tensors)
    return stream.waits, stream.host


def unet_tensors() -> dict[str, torch.Tensor]:
    """Return SDXL's UNet in half precision, zeros that take no memory."""
    shapes = {name: tensor.shape for name, tensor in empty_networks()["unet"].named_parameters()}
    return {name: torch.zeros(1).half().expand(shape) for name, shape in shapes.items()}


def lora_tensors(unet: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the factors of a LoRA of rank 32 on the 722 layers that kohya's trainer writes."""
    layers = [
        name
        for name, tensor in unet.items()
        if tensor.dim() == 2 and ".attentions." in name and name.endswith(".weight")
    ]
    found = {}
    for name in layers:
        outputs, inputs = unet[name].shape
        found[f"{name}.down"] = torch.zeros(1).half().expand(LORA_RANK, inputs)
        found[f"{name}.up"] = torch.zeros(1).half().expand(outputs, LORA_RANK)
    return found


def main() -> None:
    """Compare both ways, and finish with the waits of the loader's own."""
    unet = unet_tensors()
    waits = {}
    rows = {}
    for name, tensors in {"UNet": unet, "LoRA": lora_tensors(unet)}.items():
        before, slow = load_by_tensor(tensors)
        waits[name], seconds = load_by_uploader(tensors)
        rows[name] = {
            "tensors": len(tensors), "waits before": before, "waits": waits[name],
            "s before": slow, "s": seconds,
        }  # fmt: skip
    print(table(rows))
    most = max(waits.values())
    finish(waits, MAX_WAITS, most <= MAX_WAITS, seconds={n: row["s"] for n, row in rows.items()})


if __name__ == "__main__":
    main()
