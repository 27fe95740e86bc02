"""The demo set in one process: the engine, and diffusers' pipeline on the same files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPipeline,
)
from msgspec.structs import replace
from PIL import Image

from common.protocol import Event, GenerateJob, JobDone, LoraMode, LoraWeight
from models.catalog import Catalog
from models.sources.base import parse_source
from runners.device import Device
from runners.engine.engine import Engine, EngineConfig
from runners.networks.loading import extract_hint_embedding, load_component
from runners.networks.lora.working_copy import WorkingCopy
from runners.networks.sdxl import ControlNet, SdxlModel
from testing.catalog import demo_catalog as demo_catalog
from testing.fused_loras import fuse_loras

WEIGHTS = Path(__file__).parent.parent / "models" / "demo" / "weights"
DEVICE = Device(torch.device("cpu"), torch.float32)
CONTROLNET = "sdxl_small"
_WORKING_COPY = WorkingCopy()


def component_folders(catalog: Catalog, model: str) -> dict[str, Path]:
    """Return the local folders of a variant's components, by kind."""
    # A late import, because it loads the model store, which the GPU report does not need.
    from models.conversion.components import component_specs

    return {
        part.kind: Path(parse_source(part.source, catalog.folder).path, part.folder)
        for part in component_specs(catalog, "models", model)
        if part.is_stored
    }


@lru_cache
def _component(kind: str, path: Path) -> Any:
    """Return a component from the repository's files; variants share common ones."""
    return load_component(kind, path, DEVICE)


def demo_networks(model: str, lora_mode: LoraMode = "merged") -> tuple[SdxlModel, ControlNet]:
    """Return a variant of the demo set and its ControlNet, from the repository's files."""
    return _demo_networks(model, lora_mode)


@lru_cache
def _demo_networks(model: str, lora_mode: LoraMode) -> tuple[SdxlModel, ControlNet]:
    catalog = demo_catalog()
    folders = component_folders(catalog, model)
    parts = {kind: _component(kind, folder) for kind, folder in folders.items()}
    spec = catalog.models[model]
    is_merged = lora_mode == "merged"
    if not is_merged:
        # Low-rank products hook the layers.
        parts["unet"] = load_component("unet", folders["unet"], DEVICE)
    copy = _WORKING_COPY if is_merged else None
    variant = SdxlModel.from_components(model, spec, parts, "demo", copy)
    network = load_component("controlnet", WEIGHTS / "controlnet", DEVICE)
    return variant, extract_hint_embedding(CONTROLNET, network)


def reference_pipeline(
    loras: Sequence[LoraWeight] = (),
) -> StableDiffusionXLControlNetPipeline:
    """Return diffusers' own pipeline on the same files, with its own ControlNet and LoRAs fused."""
    return _reference_pipeline(tuple(loras))


@lru_cache
def _reference_pipeline(loras: tuple[LoraWeight, ...]) -> StableDiffusionXLControlNetPipeline:
    controlnet = ControlNetModel.from_pretrained(WEIGHTS / "controlnet", dtype=torch.float32)
    pipeline = StableDiffusionXLControlNetPipeline.from_pretrained(
        WEIGHTS, controlnet=controlnet, dtype=torch.float32, add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    catalog = demo_catalog()
    for lora in loras:
        path = Path(parse_source(catalog.loras[lora.name].source, catalog.folder).path)
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=lora.name)
    if loras:
        fuse_loras(pipeline, loras)
    return pipeline


@lru_cache
def image_reference_pipeline() -> StableDiffusionXLControlNetImg2ImgPipeline:
    """Return diffusers' image-to-image pipeline, on the networks of `reference_pipeline`."""
    pipeline = StableDiffusionXLControlNetImg2ImgPipeline(
        **reference_pipeline().components, add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class ResidentLoader:
    """A loader whose networks are already in memory."""

    def __init__(
        self,
        networks: dict[str, tuple[SdxlModel, ControlNet]] | None = None,
        lora_mode: LoraMode = "merged",
    ) -> None:
        self._networks = networks
        self._lora_mode = lora_mode
        self._given: dict[str, tuple[SdxlModel, ControlNet]] = {}
        self.is_waiting_for_eviction = False

    def get_or_start_load(
        self, model: str, controlnet: str, loras: Sequence[str]
    ) -> tuple[SdxlModel, ControlNet] | None:
        """Return the networks, like `BackgroundLoader.get_or_start_load`.

        Args:
            model: name of the variant.
            controlnet: name of the ControlNet.
            loras: names of the LoRAs to add.
        """
        if self._networks is None:
            networks = demo_networks(model, self._lora_mode)
        else:
            networks = self._networks[model]
        catalog = demo_catalog()
        for name in set(loras) & set(catalog.loras):
            path = parse_source(catalog.loras[name].source, catalog.folder).path
            networks[0].loras.add(name, Path(path))
        self._given[model] = networks
        return networks

    def release_memory(self) -> None:
        """Release what `BackgroundLoader.release_memory` releases, of the requested networks."""
        for variant, _ in self._given.values():
            variant.loras.release_sets()
            if variant.loras.working_copy is not None:
                variant.loras.working_copy.release()


def make_engine(
    config: EngineConfig | None = None,
    max_batch_rows: int = 8,
    clock: Callable[[], float] = time.monotonic,
    lora_mode: LoraMode = "merged",
) -> Engine:
    """Return an engine on the demo set; the caller must tick it.

    Args:
        config: limits of the engine; the defaults if None.
        max_batch_rows: maximum rows of a batch.
        clock: the engine's clock, in seconds.
        lora_mode: how LoRAs act.
    """
    loader: Any = ResidentLoader(lora_mode=lora_mode)
    engine = Engine(loader, DEVICE, config, clock)
    engine.cost.max_batch_rows = max_batch_rows
    return engine


def make_job(depth: np.ndarray[Any, Any], **changes: Any) -> GenerateJob:
    """Return a job with the API's defaults; `depth` is uint8 [height, width] and sets the size."""
    height, width = depth.shape
    spec = demo_catalog().models["base"]
    job = GenerateJob(
        request_id="job", subscriber="bench", model="base", controlnet=CONTROLNET,
        prompt="aerial photography, untouched wilderness", negative_prompt=None, seed=0,
        num_images=1, steps=spec.steps, guidance_scale=spec.cfg, controlnet_strength=0.8,
        control_guidance_start=0.0, control_guidance_end=1.0, scheduler="auto",
        use_karras_sigmas=None, width=width, height=height, output_format="png", quality=90,
        depth=depth.tobytes(),
    )  # fmt: skip
    return replace(job, **changes)


@dataclass
class Listener:
    """A collector of a job's events."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Append one event."""
        self.events.append(event)


def drain(engine: Engine) -> None:
    """Tick until the engine is idle."""
    while engine.tick():
        pass


def finished(engine: Engine, listeners: Iterable[Listener]) -> list[JobDone]:
    """Tick until the engine is idle and close it; return each request's final event.

    Args:
        engine: the engine.
        listeners: the listeners of all requests.

    Raises:
        RuntimeError: A request ended without its images.
    """
    drain(engine)
    engine.close()
    ends = []
    for listener in listeners:
        last = listener.events[-1]
        if not isinstance(last, JobDone):
            raise RuntimeError(f"the engine ended with {last}")
        ends.append(last)
    return ends


def reference_arguments(jobs: Sequence[GenerateJob]) -> dict[str, Any]:
    """Return the pipeline's arguments for jobs that differ only in the seed."""
    job = jobs[0]
    grey = np.frombuffer(job.depth, np.uint8).reshape(job.height, job.width)
    generators = [torch.Generator("cpu").manual_seed(each.seed) for each in jobs]
    negative = job.negative_prompt
    depth = [Image.fromarray(grey).convert("RGB")] * len(jobs)
    pictures: dict[str, Any] = {"image": depth, "width": job.width, "height": job.height}
    if job.image:
        start = np.frombuffer(job.image, np.uint8).reshape(job.height, job.width, 3)
        pictures["image"] = [Image.fromarray(start)] * len(jobs)
        pictures |= {"control_image": depth, "strength": job.strength}
    return {
        **pictures,
        "prompt": [job.prompt] * len(jobs),
        "negative_prompt": None if negative is None else [negative] * len(jobs),
        "num_inference_steps": job.steps,
        "guidance_scale": job.guidance_scale,
        "controlnet_conditioning_scale": job.controlnet_strength,
        "control_guidance_start": job.control_guidance_start,
        "control_guidance_end": job.control_guidance_end,
        "generator": generators,
    }


@contextlib.contextmanager
def guidance_window(pipeline: Any, job: GenerateJob) -> Iterator[None]:
    """Let a pipeline guide only the steps that the job guides.

    In the other steps the conditional prediction also stands for the unconditional one, so guidance
    of any scale leaves it as it is.
    """
    done = 0

    def switch(_: Any, __: Any, output: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        nonlocal done
        is_guided = job.is_guided(done, pipeline.num_timesteps)
        done += 1
        if is_guided or job.guidance_scale <= 1.0:
            return None
        conditional = output[0].chunk(2)[1]
        return (torch.cat([conditional, conditional]),)

    handle = pipeline.unet.register_forward_hook(switch)
    try:
        yield
    finally:
        handle.remove()
