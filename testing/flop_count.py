"""Floating-point operations of the engine, counted: on the demo set, and on SDXL without weights.

Counted by torch's FlopCounterMode, which sees matrix products, convolutions and attention; one
multiply-add is two operations. On the meta device nothing is computed, so SDXL at full size is
counted in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Literal

import torch
from diffusers import ControlNetModel
from torch.utils.flop_counter import FlopCounterMode

from common.protocol import GenerateJob
from models.catalog import load_catalog
from runners.device import Device
from runners.diffusion.batch import BatchCache
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.denoise import predict_noise
from runners.diffusion.sample import Sample
from runners.networks.loading import extract_hint_embedding
from runners.networks.sdxl import ControlNet, SdxlModel
from testing.random_networks import empty_networks
from testing.sdxl_set import configurations, controlnet_config
from testing.workbench import DEVICE, demo_networks

ControlNetSize = Literal["small", "full"]

META = Device(torch.device("meta"), torch.float16)
_ATTENTION_BLOCKS = ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]


class _WordTokenizer:
    """In place of CLIP's, whose vocabulary is not in this repository: a token for each word and
    each mark, which is what CLIP's gives for common English words."""

    model_max_length = 77
    bos_token_id = eos_token_id = pad_token_id = 0

    def __call__(self, texts: list[str], **_: object) -> SimpleNamespace:
        """Ids of nothing but the right number."""
        return SimpleNamespace(input_ids=[[1] * len(re.findall(r"\w+|[^\w\s]", t)) for t in texts])


def counted(work: Callable[[], object]) -> int:
    """The operations of one call on this thread."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


class CountedEngine:
    """The engine's steps for one request after another on the same networks, counted.

    What the engine keeps from one request to the next, prompts above all, is kept here too.
    """

    def __init__(self, variant: SdxlModel, controlnet: ControlNet, device: Device) -> None:
        self._networks = variant, controlnet
        self._device = device
        self._conditioner = ConditioningBuilder(device)
        self._batches = BatchCache(device)

    def operations(self, job: GenerateJob) -> int:
        """The operations of one request.

        Previews and what is no tensor arithmetic (schedulers, encoding of files) do not count.
        """
        return counted(lambda: self.paint(job))

    @torch.inference_mode()
    def paint(self, job: GenerateJob, on_step: Callable[[int], None] = lambda _: None) -> None:
        """Every picture of a job, one after the other; `on_step` is told of each step's end."""
        variant, _ = self._networks
        conditioning = self._conditioner.build(job, *self._networks)
        decoder = variant.vae if job.decoder == "full" else variant.tiny_decoder
        for number in range(job.num_images):
            single = replace(job, seed=job.seed + number)
            sample = Sample(single, single.seed, *self._networks, conditioning, self._device)
            while not sample.done:
                (prediction,) = predict_noise([sample], self._device, self._batches)
                sample.advance(prediction)
                on_step(sample.index - 1)
            decoder.decode(sample.latents.to(decoder.dtype), return_dict=False)


def operations(job: GenerateJob, variant: SdxlModel, controlnet: ControlNet, device: Device) -> int:
    """The operations of a request whose prompt is not yet known."""
    return CountedEngine(variant, controlnet, device).operations(job)


def demo(model: str) -> tuple[SdxlModel, ControlNet, Device]:
    """A variant of the demo set, as the workbench has it."""
    return (*demo_networks(model), DEVICE)


@lru_cache
def sdxl(model: str, size: ControlNetSize = "small") -> tuple[SdxlModel, ControlNet, Device]:
    """A variant of the catalog `experimance` with SDXL's shapes and no weights."""
    spec = load_catalog("experimance").models[model]
    variant = SdxlModel.from_components(model, spec, _shared_parts(), text_key="sdxl")
    return variant, _split_controlnet(size), META


@lru_cache
def _shared_parts() -> dict[str, Any]:
    return sdxl_parts()


def sdxl_parts() -> dict[str, Any]:
    """SDXL's networks without weights, and tokenizers, by kind; new ones at each call."""
    networks = {kind: network.to(META.dtype) for kind, network in empty_networks().items()}
    return {**networks, "tokenizer": _WordTokenizer(), "tokenizer_2": _WordTokenizer()}


def sdxl_controlnet(size: ControlNetSize) -> ControlNetModel:
    """A depth ControlNet with SDXL's shapes and no weights, whole."""
    config = controlnet_config(small=False)
    if size == "full":
        layers = configurations(small=False)["unet"]["transformer_layers_per_block"]
        config = {
            **config,
            "down_block_types": _ATTENTION_BLOCKS,
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "transformer_layers_per_block": layers,
        }
    with META.torch_device:
        network = ControlNetModel.from_config(config)
    return network.eval().to(META.dtype)


@lru_cache
def _split_controlnet(size: ControlNetSize) -> ControlNet:
    return extract_hint_embedding(size, sdxl_controlnet(size))
