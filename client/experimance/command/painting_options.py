"""How to paint: options of every command that asks for pictures."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from experimance.command import completion

_WHAT, _HOW, _DEPTH, _TUNING = "What to paint", "How to paint", "Depth and photograph", "Tuning"


def _option(*names: str, help: str, panel: str, **more: Any) -> Any:  # noqa: A002
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


@dataclass
class Painting:
    """Fields of a request; what is None is left to the service."""

    prompt: Annotated[
        str | None,
        _option("--prompt", "-p", help="In words; without it, the era's example.", panel=_WHAT),
    ] = None
    negative_prompt: Annotated[
        str | None, _option("--negative-prompt", "-n", help="What to avoid.", panel=_WHAT)
    ] = None
    era: Annotated[
        str | None,
        _option("--era", "-e", help="Sets LoRAs.", panel=_WHAT, autocompletion=completion.eras),
    ] = None
    seed: Annotated[
        int | None,
        _option("--seed", "-s", help="Random where not given.", panel=_WHAT, min=0),
    ] = None
    photo: Annotated[
        Path | None,
        _option(
            "--photo",
            help="Its depth is estimated; with --strength, the picture to start from.",
            panel=_DEPTH,
        ),
    ] = None
    strength: Annotated[
        float | None,
        _option("--strength", help="How much of the photo is painted anew.", panel=_DEPTH,
                min=0.0, max=1.0),
    ] = None  # fmt: skip
    estimator: Annotated[
        str | None,
        _option("--estimator", help="What estimates the photo's depth.", panel=_DEPTH,
                autocompletion=completion.estimators),
    ] = None  # fmt: skip
    invert_depth: Annotated[
        bool, _option("--invert-depth", help="Turn near and far round.", panel=_DEPTH)
    ] = False
    normalize_depth: Annotated[
        bool,
        _option("--normalize-depth", help="Stretch depth over the whole range.", panel=_DEPTH),
    ] = False
    model: Annotated[
        str | None,
        _option("--model", "-m", help="A variant.", panel=_HOW, autocompletion=completion.models),
    ] = None
    steps: Annotated[int | None, _option("--steps", help="1 to 50.", panel=_HOW)] = None
    cfg: Annotated[
        float | None, _option("--cfg", help="Guidance scale; at or under 1 none.", panel=_HOW)
    ] = None
    width: Annotated[
        int | None, _option("--width", help="Pixels, a multiple of 8.", panel=_HOW)
    ] = None
    height: Annotated[
        int | None, _option("--height", help="Pixels, a multiple of 8.", panel=_HOW)
    ] = None
    lora: Annotated[
        list[str] | None,
        _option("--lora", help="Replaces the era's; repeat it for more.", panel=_TUNING,
                metavar="NAME[=STRENGTH]", autocompletion=completion.loras),
    ] = None  # fmt: skip
    lora_strength: Annotated[
        float | None, _option("--lora-strength", help="Multiplies every LoRA's.", panel=_TUNING)
    ] = None
    controlnet: Annotated[
        str | None,
        _option("--controlnet", help="What makes the picture follow the depth.", panel=_TUNING,
                autocompletion=completion.controlnets),
    ] = None  # fmt: skip
    controlnet_strength: Annotated[
        float | None,
        _option("--controlnet-strength", help="How strictly depth is followed.", panel=_TUNING),
    ] = None
    control_start: Annotated[
        float | None,
        _option("--control-start", help="Share of steps before depth acts.", panel=_TUNING),
    ] = None
    control_end: Annotated[
        float | None,
        _option("--control-end", help="Share of steps after which it ends.", panel=_TUNING),
    ] = None
    scheduler: Annotated[
        str | None,
        _option("--scheduler", help="The variant's own where not given.", panel=_TUNING,
                autocompletion=completion.schedulers),
    ] = None  # fmt: skip
    karras: Annotated[
        bool | None,
        _option("--karras/--no-karras", help="Overrides the scheduler's sigmas.", panel=_TUNING),
    ] = None
    decoder: Annotated[str | None, _option("--decoder", help="full or tiny.", panel=_TUNING)] = None
    deepcache: Annotated[
        bool, _option("--deepcache", help="Faster, less exact.", panel=_TUNING)
    ] = False
    deadline_ms: Annotated[
        int | None,
        _option("--deadline-ms", help="Nothing is painted that cannot be ready then.",
                panel=_TUNING),
    ] = None  # fmt: skip

    def fields(self) -> dict[str, Any]:
        """As keyword arguments of a client's `generate`, but for the prompt and the photo."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        for apart in ("prompt", "photo", "lora"):
            del given[apart]
        renamed = {_NAMES.get(name, name): value for name, value in given.items()}
        if self.lora:
            renamed["loras"] = [_lora(text) for text in self.lora]
        # Switches that are off are not sent: an older service need not know them.
        return {
            name: value
            for name, value in renamed.items()
            if value is not None and (value is not False or name == "use_karras_sigmas")
        }


_NAMES = {
    "estimator": "depth_estimator",
    "control_start": "control_guidance_start",
    "control_end": "control_guidance_end",
    "karras": "use_karras_sigmas",
    "deepcache": "enable_deepcache",
}


def _lora(text: str) -> dict[str, Any]:
    name, _, strength = text.partition("=")
    try:
        return {"name": name, "strength": float(strength or 1.0)}
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not NAME or NAME=STRENGTH", param_hint="--lora"
        ) from None
