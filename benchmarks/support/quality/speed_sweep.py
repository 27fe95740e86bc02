"""Guidance masks and DeepCache on the demo set: judged quality, and operations at SDXL's size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from msgspec.structs import replace

from benchmarks.flops import installation_job, with_loras
from benchmarks.support.quality.gallery import Pairs, adherence, paint, read, recognised
from benchmarks.support.quality.judge import Judge
from common.protocol import GenerateJob, LoraWeight
from common.step_window import is_in_window
from runners.diffusion.deepcache import is_cached_step
from testing.flop_count import CountedEngine, flop_per_step
from testing.workbench import demo_catalog, make_job

STEPS = 6
GUIDANCE = 2.0
CONTROL_END = 0.8
_TERA = 1e12
StepKind = tuple[int, bool, bool]
"""Rows of a step, and whether it reuses deep features and whether the ControlNet acts."""


class MaskedJob(GenerateJob, frozen=True, tag=True):
    """A job whose guidance acts in any set of steps, which requests cannot ask for."""

    mask: tuple[bool, ...] = ()

    def is_guided(self, index: int, steps: int) -> bool:
        """Return whether a step is guided."""
        return self.mask[index]


@dataclass(frozen=True, slots=True)
class Setting:
    """How an image is made: the guided steps, DeepCache and the decoder."""

    mask: tuple[bool, ...]
    enable_deepcache: bool = False
    decoder: str = "full"

    @classmethod
    def of_window(
        cls, steps: int, start: float, end: float, enable_deepcache: bool, decoder: str
    ) -> Setting:
        """Return the setting of a request with a guidance window."""
        mask = tuple(is_in_window(step, steps, start, end) for step in range(steps))
        return cls(mask, enable_deepcache, decoder)

    @property
    def label(self) -> str:
        """The mask as letters, G for guided steps, with DeepCache and the tiny decoder named."""
        letters = "".join("G" if guided else "-" for guided in self.mask)
        return (
            letters
            + (" deepcache" if self.enable_deepcache else "")
            + (" tiny" if self.decoder == "tiny" else "")
        )

    def step_kinds(self) -> list[StepKind]:
        """Return the kind of each step, as in runners/diffusion/sample.py."""
        steps = len(self.mask)
        kinds = []
        for step, guided in enumerate(self.mask):
            is_cached = (
                self.enable_deepcache
                and is_cached_step(step, steps)
                and (not guided or self.mask[step - 1])
            )
            acts = not is_cached and is_in_window(step, steps, 0.0, CONTROL_END)
            kinds.append((1 + guided, is_cached, acts))
        return kinds

    def tflop(self) -> float:
        """Return the TFLOP of the image at 1024 x 1024 on SDXL, with a new prompt."""
        steps, once = _costs(self.decoder)
        return (once + sum(steps[kind] for kind in self.step_kinds())) / _TERA


def sweep_settings() -> list[Setting]:
    """Return all masks of six steps, without and with DeepCache."""
    masks = itertools.product((False, True), repeat=STEPS)
    return [Setting(mask, cached) for mask in masks for cached in (False, True)]


@lru_cache
def _costs(decoder: str) -> tuple[dict[StepKind, int], int]:
    """Return the operations of each kind of step, and those of an image beside its steps."""
    found: dict[StepKind, int] = {}
    once = 0
    for guided in (False, True):
        for cached in (False, True):
            setting = Setting((guided,) * STEPS, cached)
            job = replace(
                installation_job(),
                guidance_scale=GUIDANCE if guided else 1.0,
                enable_deepcache=cached,
                control_guidance_end=CONTROL_END,
                decoder=decoder,
            )
            engine = CountedEngine(*with_loras("small"))
            total, steps = flop_per_step(engine, job)
            # The first step also computes the text's keys and values, which are counted once.
            found |= dict(zip(setting.step_kinds()[1:], steps[1:], strict=True))
            if not cached:
                first = found[setting.step_kinds()[0]]
                once = total - sum(steps) + steps[0] - first
    return found, once


@dataclass(frozen=True, slots=True)
class Quality:
    """Judged quality of a setting, and its TFLOP at SDXL's size."""

    adherence: float
    era: float
    tflop: float

    def kept(self, exact: Quality) -> float:
        """Return the least share of adherence and era recognition that is kept of another's."""
        return min(self.adherence / exact.adherence, self.era / exact.era)


def judged(judge: Judge, pairs: Pairs, model: str, setting: Setting) -> Quality:
    """Generate each map in its era with a setting, the era's LoRAs and guidance; judge them.

    Args:
        judge: reads height and era from the images.
        pairs: depth maps, each with its era.
        model: name of the variant.
        setting: how the images are made.
    """
    catalog = demo_catalog()
    steps = len(setting.mask)
    jobs: list[GenerateJob] = []
    for number, (held, era) in enumerate(pairs):
        loras = catalog.eras[era].loras
        fields: dict[str, Any] = {
            "request_id": str(number),
            "model": model,
            "prompt": catalog.eras[era].prompt,
            "seed": number,
            "steps": steps,
            "guidance_scale": GUIDANCE,
            "control_guidance_end": CONTROL_END,
            "enable_deepcache": setting.enable_deepcache,
            "decoder": setting.decoder,
            "loras": tuple(LoraWeight(name, loras[name]) for name in sorted(loras)),
        }
        plain = make_job(held.depth, **fields)
        values = {name: getattr(plain, name) for name in plain.__struct_fields__}
        jobs.append(MaskedJob(**values, mask=setting.mask))
    readings = read(judge, pairs, paint(jobs))
    return Quality(adherence(readings), recognised(readings), setting.tflop())


def pareto(qualities: Iterable[tuple[Setting, Quality]]) -> Sequence[tuple[Setting, Quality]]:
    """Return the settings that no cheaper one beats in both figures, cheapest first."""
    best: list[tuple[Setting, Quality]] = []
    for setting, quality in sorted(qualities, key=lambda pair: pair[1].tflop):
        score = quality.adherence + quality.era
        if not best or score > max(each.adherence + each.era for _, each in best):
            best.append((setting, quality))
    return best
