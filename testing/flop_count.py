"""FLOP counts of the engine: on the demo set, and on SDXL (arXiv:2307.01952) without weights.

torch's formulas count matrix products, convolutions and attention; one multiply-add is two
operations. The meta device computes nothing, so full-size SDXL takes seconds.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Literal

import torch
from diffusers import ControlNetModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from common.protocol import GenerateJob, LoraMode
from models.catalog import load_catalog
from runners.device import Device
from runners.diffusion.batch import BatchCache
from runners.diffusion.conditioning import ConditioningBuilder
from runners.diffusion.denoise import predict_noise
from runners.diffusion.sample import Sample
from runners.networks.loading import extract_hint_embedding
from runners.networks.lora.working_copy import WorkingCopy
from runners.networks.sdxl import ControlNet, SdxlModel
from runners.networks.weight_upload import WeightUploader
from testing.meta_copy_stream import MetaCopyStream
from testing.operator_mode import decomposed, is_composite
from testing.random_networks import empty_networks
from testing.sdxl_set import configurations, controlnet_config
from testing.workbench import DEVICE, demo_networks

ControlNetSize = Literal["small", "full"]

META = Device(torch.device("meta"), torch.float16)
_WORKING_COPY = WorkingCopy()
_ATTENTION_BLOCKS = ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]


class _WordTokenizer:
    """Stand-in for CLIP's tokenizer, whose vocabulary is not in this repository.

    It returns a token per word and per punctuation mark, as CLIP's does for common English words.
    """

    model_max_length = 77
    bos_token_id = eos_token_id = pad_token_id = 0

    def __call__(self, texts: list[str], **_: object) -> SimpleNamespace:
        """Return constant ids, in the right number."""
        return SimpleNamespace(input_ids=[[1] * len(re.findall(r"\w+|[^\w\s]", t)) for t in texts])


class _FlopCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counter of FLOP; torch's own counts them for every module, which takes longer."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Decompose composite operators and count the others."""
        kwargs = kwargs or {}
        if is_composite(func):
            with self:
                return decomposed(func, args, kwargs)
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__.removesuffix("_")
        # In-place operators have no formulas of their own.
        formula = flop_registry.get(getattr(torch.ops.aten, name, None))
        if formula is not None:
            self.operations[name] += formula(*args, **kwargs, out_val=result)
        return result


def counted(work: Callable[[], object]) -> int:
    """Return the FLOP of one call on this thread."""
    return sum(counted_by_class(work).values())


def counted_by_class(work: Callable[[], object]) -> dict[str, int]:
    """Return the FLOP of one call on this thread, by class of operator.

    On the meta device attention consists of batched matrix products, and nothing else does.
    """
    classes = {"bmm": "attention", "baddbmm": "attention", "convolution": "convolutions"}
    count = _FlopCount()
    with count:
        work()
    found: Counter[str] = Counter()
    for operator, operations in count.operations.items():
        found[classes.get(operator, "matrix products")] += operations
    return dict(found)


class CountedEngine:
    """FLOP counter of the engine's steps, for consecutive requests on the same networks.

    Like the engine, it caches results between requests, such as encoded prompts.
    """

    def __init__(self, variant: SdxlModel, controlnet: ControlNet, device: Device) -> None:
        self._networks = variant, controlnet
        self._device = device
        self._conditioner = ConditioningBuilder(device)
        self._batches = BatchCache(device)

    def operations(self, job: GenerateJob) -> int:
        """Return the FLOP of one request.

        Previews, schedulers and the encoding of files do not count.
        """
        return counted(lambda: self.paint(job))

    @torch.inference_mode()
    def admit(self, job: GenerateJob) -> list[Sample]:
        """Return the samples of a job before their first step."""
        conditioning = self._conditioner.build(job, *self._networks)
        return [
            Sample(job, number, *self._networks, conditioning) for number in range(job.num_images)
        ]

    @torch.inference_mode()
    def step(self, sample: Sample) -> None:
        """Run one step of a sample."""
        (prediction,) = predict_noise([sample], self._device, self._batches)
        sample.advance(prediction)

    @torch.inference_mode()
    def paint(self, job: GenerateJob, on_step: Callable[[int], None] = lambda _: None) -> None:
        """Generate every image of a job in sequence.

        Args:
            job: the request.
            on_step: callback with the zero-based index of each completed step.
        """
        for sample in self.admit(job):
            while not sample.done:
                self.step(sample)
                on_step(sample.index - 1)
            self.decode(sample)

    @torch.inference_mode()
    def decode(self, sample: Sample) -> None:
        """Decode a sample's latents."""
        variant, _ = self._networks
        decoder = variant.vae if sample.job.decoder == "full" else variant.tiny_decoder
        decoder.decode(sample.latents.to(decoder.dtype), return_dict=False)


def flop_per_step(engine: CountedEngine, job: GenerateJob) -> tuple[int, list[int]]:
    """Return the FLOP of a request, and those of each step."""
    count = _FlopCount()
    marks = []

    def mark(_: int) -> None:
        marks.append(sum(count.operations.values()))

    with count:
        (sample,) = engine.admit(job)
        mark(0)
        while not sample.done:
            engine.step(sample)
            mark(0)
        engine.decode(sample)
    steps = [after - before for before, after in itertools.pairwise(marks)]
    return sum(count.operations.values()), steps


def operations(job: GenerateJob, variant: SdxlModel, controlnet: ControlNet, device: Device) -> int:
    """Return the FLOP of a request whose prompt is not cached.

    Args:
        job: the request.
        variant: networks of the variant.
        controlnet: the ControlNet.
        device: the device of the networks.
    """
    return CountedEngine(variant, controlnet, device).operations(job)


def demo(model: str) -> tuple[SdxlModel, ControlNet, Device]:
    """Return a variant of the demo set, like the workbench's."""
    return (*demo_networks(model), DEVICE)


@lru_cache
def sdxl(
    model: str, size: ControlNetSize = "small", lora_mode: LoraMode = "merged"
) -> tuple[SdxlModel, ControlNet, Device]:
    """Return a variant of the catalog `experimance` with SDXL's shapes, on the meta device."""
    spec = load_catalog("experimance").models[model]
    # Low-rank products hook the layers, so those networks are their own.
    is_merged = lora_mode == "merged"
    parts = _shared_parts() if is_merged else sdxl_parts()
    copy = _WORKING_COPY if is_merged else None
    variant = SdxlModel.from_components(model, spec, parts, "sdxl", copy)
    return variant, _split_controlnet(size), META


@lru_cache
def _shared_parts() -> dict[str, Any]:
    return sdxl_parts()


def sdxl_parts() -> dict[str, Any]:
    """Return new SDXL networks on the meta device, and tokenizers, by kind."""
    networks = {kind: _loaded(network) for kind, network in empty_networks().items()}
    return {**networks, "tokenizer": _WordTokenizer(), "tokenizer_2": _WordTokenizer()}


def sdxl_controlnet(size: ControlNetSize) -> ControlNetModel:
    """Return a complete depth ControlNet with SDXL's shapes, on the meta device."""
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
    return _loaded(network.eval())


def _loaded(network: Any) -> Any:
    """Return a network whose weights lie in memory as after a load to a GPU."""
    network.to(META.dtype)
    WeightUploader(META, MetaCopyStream()).move(network)
    return network


@lru_cache
def _split_controlnet(size: ControlNetSize) -> ControlNet:
    return extract_hint_embedding(size, sdxl_controlnet(size))
