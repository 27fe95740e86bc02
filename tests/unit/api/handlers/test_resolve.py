"""Resolution of a request into a job: defaults, names, LoRAs and rejections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from api.errors import InvalidRequest, Unavailable, UnknownName
from api.handlers.job_parameters import build_job_parameters
from api.handlers.resolve import RequestResolver
from api.schemas.requests import GenerateRequest
from common.protocol import LoadCommand, LoraWeight
from common.scheduler_table import SCHEDULER_NAMES, SCHEDULERS, has_karras_sigmas
from models.catalog import SpeedSpec
from models.store.inventory import LiveInventory
from models.store.store import Component
from runners.diffusion.schedulers import build_scheduler
from tests.support.runner.resolved_jobs import CATALOG, inventory, live_inventory, resolved


def test_defaults_are_the_variants() -> None:
    job = resolved().job
    assert (job.model, job.controlnet) == ("lightning", "sdxl_small")
    assert (job.steps, job.guidance_scale, job.width, job.height) == (6, 1.5, 1024, 1024)
    base = resolved(model="base").job
    assert (base.steps, base.guidance_scale) == (20, 7.5)


def test_request_values_override_defaults_even_zero() -> None:
    job = resolved(steps=3, cfg=0.0, seed=0, width=256, height=2048, deadline_ms=500).job
    assert (job.steps, job.guidance_scale, job.seed) == (3, 0.0, 0)
    assert (job.width, job.height, job.deadline) == (256, 2048, 100.5)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (0.2, 0.6)),
        ({"guidance_start": 0.0}, (0.0, 0.6)),
        ({"guidance_start": 0.8}, (0.8, 0.8)),
        ({"guidance_end": 0.1}, (0.1, 0.1)),
        ({"guidance_start": 0.0, "guidance_end": 1.0}, (0.0, 1.0)),
    ],
)
def test_guidance_window_defaults_to_the_variants(
    fields: dict[str, float], expected: tuple[float, float]
) -> None:
    spec = CATALOG.models["lightning"]
    own = spec.model_copy(update={"guidance_start": 0.2, "guidance_end": 0.6})
    catalog = CATALOG.model_copy(update={"models": {**CATALOG.models, "lightning": own}})
    resolver = RequestResolver(catalog, live_inventory(inventory()))
    job = resolved(resolver, **fields).job
    assert (job.guidance_start, job.guidance_end) == expected


SPEEDS: dict[str, SpeedSpec] = {
    "balanced": SpeedSpec(guidance_end=0.5),
    "fast": SpeedSpec(steps=4, guidance_end=0.4, enable_deepcache=True, decoder="tiny"),
}
"""Of an invented variant with 6 steps, guided from 0.2 until 0.8."""


def at_speed(has_tiny_decoder: bool = True, **fields: Any) -> tuple[Any, ...]:
    """Steps, guidance window, DeepCache and decoder of the job."""
    spec = CATALOG.models["lightning"]
    changes = {"guidance_start": 0.2, "guidance_end": 0.8, "steps": 6, "speeds": SPEEDS}
    own = spec.model_copy(update=changes)
    catalog = CATALOG.model_copy(update={"models": {**CATALOG.models, "lightning": own}})
    there = inventory()
    part = Component("tiny_decoder", "tiny:1", Path(), 1)
    parts = {"tiny_decoder": part} if has_tiny_decoder else {}
    entry = replace(there.models["lightning"], components=parts)
    there = replace(there, models={**there.models, "lightning": entry})
    job = resolved(RequestResolver(catalog, live_inventory(there)), **fields).job
    return (
        job.steps, job.guidance_start, job.guidance_end, job.enable_deepcache, job.decoder,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (6, 0.2, 0.8, False, "full")),
        ({"speed": "exact"}, (6, 0.2, 0.8, False, "full")),
        ({"speed": "balanced"}, (6, 0.2, 0.5, False, "full")),
        ({"speed": "fast"}, (4, 0.2, 0.4, True, "tiny")),
        ({"speed": "fast", "steps": 8}, (8, 0.2, 0.4, True, "tiny")),
        ({"speed": "fast", "enable_deepcache": False}, (4, 0.2, 0.4, False, "tiny")),
        ({"speed": "fast", "decoder": "full"}, (4, 0.2, 0.4, True, "full")),
        ({"speed": "fast", "guidance_end": 1.0}, (4, 0.2, 1.0, True, "tiny")),
        ({"speed": "fast", "guidance_start": 0.6}, (4, 0.6, 0.6, True, "tiny")),
        ({"enable_deepcache": True, "decoder": "tiny"}, (6, 0.2, 0.8, True, "tiny")),
    ],
)
def test_speed_fills_in_what_the_request_leaves_out(
    fields: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    assert at_speed(**fields) == expected


def test_speed_does_without_a_tiny_decoder_that_is_not_there() -> None:
    assert at_speed(has_tiny_decoder=False, speed="fast")[-1] == "full"
    with pytest.raises(InvalidRequest, match="has no tiny decoder"):
        at_speed(has_tiny_decoder=False, speed="fast", decoder="tiny")


def test_speed_that_the_variant_lacks_is_refused() -> None:
    spec = CATALOG.models["base"].model_copy(update={"speeds": {}})
    catalog = CATALOG.model_copy(update={"models": {**CATALOG.models, "base": spec}})
    resolver = RequestResolver(catalog, live_inventory(inventory()))
    with pytest.raises(InvalidRequest, match="model base has no 'fast'; accepted: 'exact'"):
        resolved(resolver, model="base", speed="fast")


def test_missing_seed_is_random() -> None:
    seeds = {resolved().job.seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("fields", "code", "listed"),
    [
        ({"model": "hyper"}, "unknown_model", "lightning, base"),
        ({"controlnet": "canny"}, "unknown_controlnet", "sdxl_small"),
        ({"era": "baroque"}, "unknown_era", "wilderness"),
        ({"loras": [{"name": "pixel"}]}, "unknown_lora", "drone, experimance"),
        (
            {"depth_estimator": "midas", "image_b64": "A", "mock_depth": False},
            "unknown_depth_estimator",
            "depth_anything, zoe",
        ),
    ],
)
def test_unknown_name_error_lists_known_names(
    fields: dict[str, Any], code: str, listed: str
) -> None:
    with pytest.raises(UnknownName, match=listed) as caught:
        resolved(**fields)
    assert caught.value.code == code
    assert caught.value.detail[0].field == next(iter(fields))


def test_the_depth_of_a_photograph_is_estimated_by_the_default() -> None:
    photograph = {"image_b64": "A", "mock_depth": False}
    assert resolved(**photograph).depth_estimator == "depth_anything"
    assert resolved(**photograph).job.controlnet_strength == 0.8
    assert resolved(**photograph, depth_estimator="zoe").depth_estimator == "zoe"
    only = RequestResolver(CATALOG, live_inventory(inventory(estimators=("zoe",))))
    assert resolved(only, **photograph).depth_estimator == "zoe"
    assert only.default_depth_estimator == "zoe"
    unnamed = CATALOG.model_copy(update={"default_depth_estimator": None})
    first = RequestResolver(unnamed, LiveInventory(unnamed, False, inventory()))
    assert first.default_depth_estimator == "depth_anything"


def test_without_estimators_the_message_names_the_field() -> None:
    photograph = {"image_b64": "A", "mock_depth": False}
    bare = CATALOG.model_copy(update={"depth_estimators": {}, "default_depth_estimator": None})
    without = RequestResolver(bare, LiveInventory(bare, False, inventory(estimators=())))
    with pytest.raises(InvalidRequest, match="depth_estimator: this catalog has none") as caught:
        resolved(without, **photograph)
    assert (caught.value.status, caught.value.detail[0].field) == (400, "depth_estimator")
    assert without.default_depth_estimator is None
    empty = RequestResolver(CATALOG, live_inventory(inventory(estimators=())))
    with pytest.raises(UnknownName, match="none, for no depth_estimator is in the store"):
        resolved(empty, **photograph)
    assert empty.default_depth_estimator is None
    fetching = RequestResolver(CATALOG, live_inventory(inventory(estimators=()), fetching=True))
    with pytest.raises(Unavailable, match="depth_estimator is still being fetched"):
        fetching.depth_estimator(None)


def test_unknown_lora_error_states_that_none_exist() -> None:
    with pytest.raises(UnknownName, match="none, for no lora"):
        resolved(RequestResolver(CATALOG, live_inventory(inventory(()))), loras=[{"name": "drone"}])


def weights(**fields: Any) -> tuple[LoraWeight, ...]:
    return resolved(**fields).job.loras


def test_era_sets_its_loras_scaled_by_lora_strength() -> None:
    assert weights() == ()
    assert weights(era="wilderness") == (LoraWeight("drone", 0.8), LoraWeight("experimance", 0.4))
    assert weights(era="future", lora_strength=0.5) == (LoraWeight("experimance", 0.55),)
    assert weights(era="future", lora_strength=0.0) == ()
    assert weights(era="future", lora_strength=-2.0) == (LoraWeight("experimance", -2.2),)


def test_loras_replace_the_eras_also_when_empty() -> None:
    drone = [{"name": "drone", "strength": 0.3}]
    assert weights(era="wilderness", loras=drone) == (LoraWeight("drone", 0.3),)
    assert weights(era="wilderness", loras=[]) == ()
    assert weights(era="wilderness", loras=None) == weights(era="wilderness")
    with pytest.raises(InvalidRequest, match="twice"):
        resolved(loras=drone * 2)


def test_era_with_missing_loras_gives_a_warning() -> None:
    partly = resolved(
        RequestResolver(CATALOG, live_inventory(inventory(("drone",)))), era="wilderness"
    )
    assert partly.job.loras == (LoraWeight("drone", 0.8),)
    assert "experimance" in partly.warnings[0]
    assert resolved(era="wilderness").warnings == ()


def test_init_image_alone_disables_the_controlnet() -> None:
    alone = resolved(mock_depth=False, image_b64="AAAA", strength=0.5)
    assert (alone.job.strength, alone.job.controlnet_strength) == (0.5, 0.0)
    assert alone.depth_estimator is None
    followed = resolved(image_b64="AAAA", strength=0.5)
    assert followed.job.controlnet_strength == 0.8


@pytest.mark.parametrize(
    ("strength", "steps", "first"), [(1.0, 6, 0), (0.5, 6, 3), (0.34, 6, 4), (0.1, 6, 5), (0, 6, 5)]
)
def test_strength_is_the_share_of_the_steps_that_is_done(
    strength: float, steps: int, first: int
) -> None:
    painted = resolved(image_b64="AAAA", strength=strength, steps=steps)
    assert painted.job.first_step == first
    assert bool(painted.warnings) == (strength * steps < 1)


def test_the_tiny_decoder_only_where_the_variant_has_one() -> None:
    with pytest.raises(InvalidRequest, match=r"decoder: model lightning .*accepted: 'full'"):
        resolved(decoder="tiny")
    there = inventory()
    decoder = Component("tiny_decoder", "sdxl-tiny_decoder:1", Path(), 1)
    entry = replace(there.models["lightning"], components={"tiny_decoder": decoder})
    resolver = RequestResolver(CATALOG, live_inventory(replace(there, models={"lightning": entry})))
    assert resolved(resolver, decoder="tiny").job.decoder == "tiny"


def test_the_schedulers_on_offer_are_the_engines() -> None:
    assert set(SCHEDULER_NAMES) == {"auto", *SCHEDULERS}


@pytest.mark.parametrize("scheduler", SCHEDULER_NAMES)
def test_karras_sigmas_require_scheduler_support(scheduler: str) -> None:
    spec = CATALOG.models["lightning"].scheduler
    if has_karras_sigmas(type(build_scheduler(spec, scheduler, None)).__name__):
        assert resolved(scheduler=scheduler, use_karras_sigmas=True).job.use_karras_sigmas
    else:
        with pytest.raises(InvalidRequest, match=r"use_karras_sigmas: .*euler, dpm_sde"):
            resolved(scheduler=scheduler, use_karras_sigmas=False)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "jpeg"),
        ({"use_jpeg": True}, "jpeg"),
        ({"use_jpeg": False}, "png"),
        ({"use_jpeg": True, "output_format": "webp"}, "webp"),
        ({"output_format": "png"}, "png"),
    ],
)
def test_older_clients_choose_the_format_by_a_flag(fields: Any, expected: str) -> None:
    assert resolved(**fields).job.output_format == expected


def test_parameters_suffice_to_paint_again() -> None:
    fields = {"prompt": "x", "seed": 5, "era": "ruins", "negative_prompt": "y", "mock_depth": True}
    request = GenerateRequest(**fields)
    first = resolved(**fields)
    written = build_job_parameters(request, first, first.job, "", "")
    assert written["loras"][0] == {"name": "drone", "strength": 0.8}
    assert written["digests"] == {
        "lightning": "1",
        "sdxl_small": "1",
        "drone": "1",
        "experimance": "1",
    }
    beside = {"software", "digests", "depth_sha256", "image_sha256"}
    again = resolved(**{key: value for key, value in written.items() if key not in beside}).job
    assert structs.replace(again, subscriber="") == structs.replace(first.job, subscriber="")


def test_load_orders() -> None:
    resolver = RequestResolver(CATALOG, live_inventory(inventory()))
    assert resolver.resolve_load(LoadCommand()) == LoadCommand("lightning", "sdxl_small")
    assert resolver.resolve_unload(LoadCommand("base")) == LoadCommand("base")
    with pytest.raises(InvalidRequest, match="one of model, controlnet"):
        resolver.resolve_unload(LoadCommand())
    with pytest.raises(UnknownName, match="lightning"):
        resolver.resolve_unload(LoadCommand("hyper"))


def test_drawn_seeds_are_exact_as_doubles() -> None:
    seeds = {resolved().job.seed for _ in range(200)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**53 - 4 for seed in seeds)
    assert max(seeds) > 2**48
