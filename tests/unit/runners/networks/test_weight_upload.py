"""Copies of weights in pieces through pinned memory, on an emulated stream."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from runners.device import Device
from runners.networks.loading import load_component
from runners.networks.lora.adapter_file import read_adapter
from runners.networks.lora.weight_change import factors_of
from runners.networks.memory_format import MemoryFormats
from runners.networks.pinned_weights import PinnedWeightCache
from runners.networks.weight_upload import WeightUploader
from testing.weight_files.random_loras import lora_file
from testing.workbench import DEVICE, component_folders, demo_catalog, demo_networks
from tests.support.runner.copy_stream import LateCopyStream

PIECE = 1024


@pytest.fixture
def stream() -> LateCopyStream:
    return LateCopyStream()


@pytest.fixture
def uploader(stream: LateCopyStream) -> WeightUploader:
    return WeightUploader(DEVICE, stream, PIECE)


def make_weights() -> dict[str, torch.Tensor]:
    """Weights of many sizes: smaller than a piece, larger than several, scalar and empty."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(), (0, 4), (1,), (3, 5), (256,), (7, 11, 3), (64, 64), (5000,), (2, 2)]
    return {str(i): torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16, torch.bfloat16])
def test_upload_is_exact_and_never_overtakes_a_copy(
    dtype: torch.dtype | None, uploader: WeightUploader, stream: LateCopyStream
) -> None:
    weights = make_weights()
    weights["turned"] = weights["6"].t()
    weights["half"] = weights["6"].half()
    for _ in range(2):
        moved = uploader.upload(weights, dtype)
        assert list(moved) == list(weights)
        for name, weight in weights.items():
            assert torch.equal(moved[name], weight.to(dtype or weight.dtype)), name
            assert moved[name].shape == weight.shape


def test_upload_copies_whole_pieces_from_few_buffers(
    uploader: WeightUploader, stream: LateCopyStream
) -> None:
    uploader.upload({str(i): torch.zeros(100) for i in range(50)})
    # 400 bytes take 512, because tensors start at multiples of 256.
    assert stream.device_buffers == [50 * 512]
    assert stream.copies == [PIECE] * 25
    assert stream.host_buffers == [PIECE] * 3
    uploader.upload({"more": torch.zeros(2000)})
    assert stream.host_buffers == [PIECE] * 3, "the buffers are reused"


def test_host_copies_are_sent_again_and_again(
    uploader: WeightUploader, stream: LateCopyStream
) -> None:
    weights = make_weights()
    copy = uploader.stage(weights, torch.float16)
    assert stream.copies == []
    for _ in range(2):
        moved = uploader.send(copy)
        assert all(torch.equal(moved[name], weight.half()) for name, weight in weights.items())
    assert copy.bytes == uploader.pinned_bytes(weights, torch.float16) == sum(stream.host_buffers)
    assert copy.bytes % PIECE in {0, 2 ** (copy.bytes % PIECE).bit_length() // 2}


def test_cache_counts_pinned_memory_and_sends_what_it_holds(
    uploader: WeightUploader, stream: LateCopyStream, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    weights = {"a": torch.arange(600.0), "b": torch.ones(3)}
    for file in (first, second):
        save_file(weights, file)
    # 2400 + 12 bytes are two pieces and a rest of 512 + 256, for which 1024 are allocated.
    cache = PinnedWeightCache(uploader, room=2 * 3 * PIECE - 1)
    for file in (first, second, first):
        read = cache.read(file, torch.float32)
        assert all(torch.equal(read[name], weight) for name, weight in weights.items())
    assert cache.bytes == 3 * PIECE
    first.unlink()
    assert torch.equal(cache.read(first, torch.float32)["a"], weights["a"])


@pytest.mark.parametrize("style", ["diffusers", "kohya"])
def test_lora_travels_as_one_buffer(
    style: str, uploader: WeightUploader, stream: LateCopyStream, tmp_path: Path
) -> None:
    unet = demo_networks("base")[0].unet
    file = lora_file(tmp_path / "lora.safetensors", unet, style, seed=1, rank=4)
    plain = read_adapter(file, unet).unet
    moved = read_adapter(file, unet, uploader=uploader).unet
    assert len(stream.device_buffers) == 1
    assert moved.keys() == plain.keys()
    for name, layer in plain.items():
        factors = zip(factors_of(moved[name].weight), factors_of(layer.weight), strict=True)
        assert all(torch.equal(*pair) for pair in factors)


def test_network_moves_with_its_buffers(uploader: WeightUploader, stream: LateCopyStream) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    parameters = dict(network.named_parameters())
    uploader.move(network)
    assert len(stream.device_buffers) == 1
    assert dict(network.named_parameters()) == parameters, "they are the same objects"
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    network(torch.ones(2, 3)).sum().backward()


def test_turned_decoders_leave_the_buffer_in_which_they_arrived(uploader: WeightUploader) -> None:
    half = Device(torch.device("cpu"), torch.float16)
    parts = {
        kind: load_component(kind, folder, half, uploader)
        for kind, folder in component_folders(demo_catalog(), "base").items()
    }
    shared = parts["vae"].decoder.conv_norm_out.weight.untyped_storage()
    assert shared.nbytes() > 10 * parts["vae"].decoder.conv_norm_out.weight.nbytes
    before = {name: tensor.clone() for name, tensor in parts["vae"].state_dict().items()}
    for kind in ("vae", "tiny_decoder"):
        MemoryFormats().apply(kind, parts[kind])
        for tensor in parts[kind].parameters():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
    assert all(torch.equal(parts["vae"].state_dict()[name], each) for name, each in before.items())
    assert parts["vae"].decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
