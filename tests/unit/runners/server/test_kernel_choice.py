"""Choice of memory formats and convolution algorithms, with invented durations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.protocol import LoraWeight
from runners.device import Device
from runners.diffusion import fp16_accumulation
from runners.diffusion.fp16_accumulation import Mode
from runners.networks.loading import extract_hint_embedding, load_component
from runners.networks.lora.manager import LoraManager
from runners.networks.lora.working_copy import WorkingCopy
from runners.networks.memory_format import MemoryFormats
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.server.kernel_choice import choose_kernels
from testing.weight_files.families import make_case, write_lora
from testing.workbench import CONTROLNET, WEIGHTS, component_folders, demo_catalog

HALF = Device(torch.device("cpu"), torch.float16)
Work = Callable[[], object]


@pytest.fixture(scope="module")
def parts() -> dict[str, object]:
    folders = component_folders(demo_catalog(), "lightning")
    return {kind: load_component(kind, folder, HALF) for kind, folder in folders.items()}


@pytest.fixture
def networks(parts: dict[str, object]) -> tuple[SdxlModel, ControlNet]:
    spec = demo_catalog().models["lightning"]
    for kind in ("unet", "vae", "tiny_decoder"):
        parts[kind].to(memory_format=torch.contiguous_format)  # type: ignore[attr-defined]
        MemoryFormats().apply(kind, parts[kind])
    variant = SdxlModel.from_components("lightning", spec, parts, text_key="half")
    network = load_component("controlnet", WEIGHTS / "controlnet", HALF)
    return variant, extract_hint_embedding(CONTROLNET, network)


@pytest.fixture(autouse=True)
def switches() -> Iterator[None]:
    """Put torch's switches back."""
    before = torch.backends.cudnn.benchmark, fp16_accumulation.is_enabled()
    yield
    torch.backends.cudnn.benchmark = before[0]
    fp16_accumulation.enable(before[1])


def is_last(network: torch.nn.Module) -> bool:
    weight = network.conv_in.weight
    assert isinstance(weight, torch.Tensor)
    return not weight.is_contiguous()


class Card:
    """Durations of an invented card, in seconds.

    Args:
        networks: the networks whose memory formats decide.
        step: factor of a step that is channels-last.
        decode: factor of a decode that is channels-last.
        tried: factor of both after cuDNN's trials.
        trial: duration of the trials of one shape.
        sums: factor of a step whose sums are in float16.
    """

    def __init__(
        self,
        networks: tuple[SdxlModel, ControlNet],
        step: float = 1.0,
        decode: float = 1.0,
        tried: float = 1.0,
        trial: float = 0.0,
        sums: float = 1.0,
    ) -> None:
        self._networks = networks
        self._factors = {"step": step, "decode": decode}
        self._tried, self._trial, self._sums = tried, trial, sums
        self._known: set[str] = set()
        self._ran: set[str] = set()

    def measure(self, work: Work) -> float:
        kind = work.__name__
        if kind not in self._ran:
            self._ran.add(kind)
            work()
        variant, _ = self._networks
        network = variant.unet if kind == "step" else variant.vae.decoder
        seconds = self._factors[kind] if is_last(network) else 1.0
        if fp16_accumulation.is_enabled():
            seconds *= self._sums
        if torch.backends.cudnn.benchmark:
            seconds *= self._tried
            if kind not in self._known:
                self._known.add(kind)
                seconds += self._trial
        return seconds


@pytest.mark.parametrize("step", [0.8, 1.2])
def test_a_set_that_was_merged_before_leaves_the_weights_as_they_were(
    networks: tuple[SdxlModel, ControlNet], step: float, tmp_path: Path
) -> None:
    variant, controlnet = networks
    case = make_case(variant.unet, write_lora, ("resnets.0.conv1", "to_q"))
    save_file(case.state, tmp_path / "own.safetensors")
    pristine = {name: tensor.clone() for name, tensor in variant.unet.state_dict().items()}
    loras = LoraManager(variant.unet, working_copy=WorkingCopy())
    loras.add("own", tmp_path / "own.safetensors")
    variant = dataclasses.replace(variant, loras=loras)
    chosen = [LoraWeight("own", 1.0)]
    loras.prepare(chosen)
    wanted = {name: tensor.clone() for name, tensor in variant.unet.state_dict().items()}
    card = Card((variant, controlnet), step=step)
    choose_kernels(variant, controlnet, HALF, MemoryFormats(), False, "off", card.measure)
    assert is_last(variant.unet) is (step < 1)
    loras.prepare(())
    for name, tensor in variant.unet.state_dict().items():
        assert torch.equal(tensor, pristine[name]), name
    loras.prepare(chosen)
    for name, tensor in variant.unet.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-2, atol=1e-3)
    loras.prepare(())


@pytest.mark.parametrize(
    ("step", "decode", "expected"),
    [
        (0.8, 0.8, (True, True)),
        (1.2, 1.2, (False, False)),
        # Two percent are within the noise, and half-precision decoders begin channels-last.
        (0.98, 1.02, (False, True)),
    ],
)
def test_the_faster_memory_format_holds_also_for_later_loads(
    networks: tuple[SdxlModel, ControlNet],
    step: float,
    decode: float,
    expected: tuple[bool, bool],
) -> None:
    variant, controlnet = networks
    before = {name: each.clone() for name, each in variant.unet.state_dict().items()}
    formats = MemoryFormats()
    choose_kernels(variant, controlnet, HALF, formats, measure=Card(networks, step, decode).measure)
    assert (is_last(variant.unet), is_last(variant.vae.decoder)) == expected
    assert is_last(controlnet.network) == expected[0]
    assert formats.is_channels_last("unet", torch.float16) == expected[0]
    assert formats.is_channels_last("controlnet", torch.float16) == expected[0]
    assert formats.is_channels_last("vae", torch.float16) == expected[1]
    assert not formats.is_channels_last("vae", torch.float32), "that was not measured"
    after = variant.unet.state_dict()
    assert all(torch.equal(each, after[name]) for name, each in before.items())


def test_a_turned_unet_keeps_no_second_copy_in_memory(
    networks: tuple[SdxlModel, ControlNet],
) -> None:
    choose_kernels(*networks, HALF, MemoryFormats(), measure=Card(networks, step=0.5).measure)
    assert all(
        tensor.untyped_storage().nbytes() == tensor.nbytes
        for tensor in networks[0].unet.parameters()
    )


def test_a_compiled_unet_keeps_its_format(networks: tuple[SdxlModel, ControlNet]) -> None:
    card = Card(networks, step=0.5)
    choose_kernels(*networks, HALF, MemoryFormats(), is_compiled=True, measure=card.measure)
    assert not is_last(networks[0].unet)


@pytest.mark.parametrize(
    ("tried", "trial", "expected"), [(0.8, 5.0, True), (0.8, 20.0, False), (1.0, 0.0, False)]
)
def test_trials_are_left_to_cudnn_if_ten_images_pay_for_them(
    networks: tuple[SdxlModel, ControlNet], tried: float, trial: float, expected: bool
) -> None:
    card = Card(networks, tried=tried, trial=trial)
    choose_kernels(*networks, HALF, MemoryFormats(), measure=card.measure)
    assert torch.backends.cudnn.benchmark is expected


@pytest.mark.parametrize(
    ("mode", "sums", "error", "expected"),
    [
        ("auto", 0.6, 0.0, True),
        ("auto", 0.6, 0.009, True),
        ("auto", 0.6, 0.011, False),
        ("auto", 0.6, float("nan"), False),
        ("auto", 0.99, 0.0, False),
        ("on", 2.0, 1.0, True),
        ("off", 0.6, 0.0, False),
    ],
)
def test_sums_in_float16_are_used_where_fast_and_exact(
    mode: Mode,
    sums: float,
    error: float,
    expected: bool,
    networks: tuple[SdxlModel, ControlNet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def predict(*_: object) -> list[torch.Tensor]:
        return [torch.full((1, 4, 8, 8), 1.0 + error * fp16_accumulation.is_enabled())]

    monkeypatch.setattr("runners.server.kernel_choice.predict_noise", predict)
    monkeypatch.setattr("runners.server.kernel_choice.decode_latents", lambda *_: None)
    fp16_accumulation.enable(True)
    card = Card(networks, sums=sums)
    choose_kernels(*networks, HALF, MemoryFormats(), sums=mode, measure=card.measure)
    assert fp16_accumulation.is_enabled() is expected


def test_lack_of_memory_leaves_everything_as_it_was(
    networks: tuple[SdxlModel, ControlNet],
) -> None:
    variant, controlnet = networks
    addresses = [tensor.data_ptr() for tensor in variant.unet.parameters()]

    def measure(work: Work) -> float:
        if is_last(variant.unet):
            raise torch.OutOfMemoryError
        return 1.0

    formats = MemoryFormats()
    choose_kernels(variant, controlnet, HALF, formats, measure=measure)
    assert [tensor.data_ptr() for tensor in variant.unet.parameters()] == addresses
    assert not formats.is_channels_last("unet", torch.float16)


def test_a_fault_during_the_measurement_is_raised(networks: tuple[SdxlModel, ControlNet]) -> None:
    def measure(work: Work) -> float:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        choose_kernels(*networks, HALF, MemoryFormats(), measure=measure)
    assert not torch.backends.cudnn.benchmark
