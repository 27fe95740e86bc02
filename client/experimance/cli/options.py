"""Option groups that several commands share, declared as dataclasses."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from experimance.async_client import AsyncClient
from experimance.cli import completion
from experimance.client import Client
from experimance.http_options import DEFAULT_URL

_PROMPT, _DEPTH = "Prompt, era and seed", "Depth and photograph"
_MODEL, _TUNING = "Model, steps and size", "Tuning"
_FIELD_NAMES = {
    "estimator": "depth_estimator",
    "control_start": "control_guidance_start",
    "control_end": "control_guidance_end",
    "karras": "use_karras_sigmas",
    "deepcache": "enable_deepcache",
}
_PANEL = "Service"


def expand_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Expand the dataclass parameters of a command into one option per field.

    Typer builds options from a function's signature. The returned function has the expanded
    signature and passes the assembled dataclasses to `command`.
    """
    hints = get_type_hints(command, include_extras=True)
    hints.pop("return", None)
    groups: dict[str, Any] = {
        name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters.extend(_options(groups[name]))
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    def run(**arguments: Any) -> None:
        for name, group in groups.items():
            fields = {field.name: arguments.pop(field.name) for field in dataclasses.fields(group)}
            arguments[name] = group(**fields)
        command(**arguments)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    keyword = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    run.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in keyword}
    return run


def _options(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty
            if field.default is dataclasses.MISSING
            else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]


def _option(*names: str, help: str, panel: str, **more: Any) -> Any:  # noqa: A002
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


@dataclass
class GenerationOptions:
    """Request fields; the service fills in None values."""

    prompt: Annotated[
        str | None,
        _option(
            "--prompt",
            "-p",
            help="Text that describes the image; default: the era's example.",
            panel=_PROMPT,
        ),
    ] = None
    negative_prompt: Annotated[
        str | None,
        _option(
            "--negative-prompt", "-n", help="Text that describes what to avoid.", panel=_PROMPT
        ),
    ] = None
    era: Annotated[
        str | None,
        _option(
            "--era",
            "-e",
            help="Era, which sets the LoRAs.",
            panel=_PROMPT,
            autocompletion=completion.eras,
        ),
    ] = None
    seed: Annotated[
        int | None,
        _option("--seed", "-s", help="Seed; random by default.", panel=_PROMPT, min=0),
    ] = None
    photo: Annotated[
        Path | None,
        _option(
            "--photo",
            help="Photograph for depth estimation; with --strength, the init image.",
            panel=_DEPTH,
        ),
    ] = None
    strength: Annotated[
        float | None,
        _option("--strength", help="Share of denoising steps on the init image.", panel=_DEPTH,
                min=0.0, max=1.0),
    ] = None  # fmt: skip
    estimator: Annotated[
        str | None,
        _option("--estimator", help="Depth estimator for the photo.", panel=_DEPTH,
                autocompletion=completion.estimators),
    ] = None  # fmt: skip
    invert_depth: Annotated[
        bool, _option("--invert-depth", help="Swap near and far.", panel=_DEPTH)
    ] = False
    normalize_depth: Annotated[
        bool,
        _option("--normalize-depth", help="Stretch depth to the full range.", panel=_DEPTH),
    ] = False
    model: Annotated[
        str | None,
        _option("--model", "-m", help="Variant.", panel=_MODEL, autocompletion=completion.models),
    ] = None
    steps: Annotated[
        int | None, _option("--steps", help="Denoising steps, 1 to 50.", panel=_MODEL)
    ] = None
    cfg: Annotated[
        float | None,
        _option("--cfg", help="Guidance scale; no guidance at or below 1.", panel=_MODEL),
    ] = None
    guidance_start: Annotated[
        float | None,
        _option("--guidance-start", help="Share of steps before guidance begins.", panel=_TUNING),
    ] = None
    guidance_end: Annotated[
        float | None,
        _option("--guidance-end", help="Share of steps after which it ends.", panel=_TUNING),
    ] = None
    width: Annotated[
        int | None, _option("--width", help="Width in pixels, a multiple of 8.", panel=_MODEL)
    ] = None
    height: Annotated[
        int | None, _option("--height", help="Height in pixels, a multiple of 8.", panel=_MODEL)
    ] = None
    lora: Annotated[
        list[str] | None,
        _option("--lora", help="LoRA instead of the era's; repeatable.", panel=_TUNING,
                metavar="NAME[=STRENGTH]", autocompletion=completion.loras),
    ] = None  # fmt: skip
    lora_strength: Annotated[
        float | None,
        _option("--lora-strength", help="Factor for the strength of every LoRA.", panel=_TUNING),
    ] = None
    controlnet: Annotated[
        str | None,
        _option("--controlnet", help="ControlNet for depth conditioning.", panel=_TUNING,
                autocompletion=completion.controlnets),
    ] = None  # fmt: skip
    controlnet_strength: Annotated[
        float | None,
        _option("--controlnet-strength", help="Strength of the depth conditioning.", panel=_TUNING),
    ] = None
    control_start: Annotated[
        float | None,
        _option(
            "--control-start",
            help="Share of steps before depth conditioning starts.",
            panel=_TUNING,
        ),
    ] = None
    control_end: Annotated[
        float | None,
        _option(
            "--control-end",
            help="Share of steps after which depth conditioning ends.",
            panel=_TUNING,
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        _option("--scheduler", help="Scheduler; default: the variant's.", panel=_TUNING,
                autocompletion=completion.schedulers),
    ] = None  # fmt: skip
    karras: Annotated[
        bool | None,
        _option(
            "--karras/--no-karras",
            help="Override the scheduler's choice of Karras sigmas.",
            panel=_TUNING,
        ),
    ] = None
    speed: Annotated[
        str | None,
        _option(
            "--speed",
            help="exact, balanced or fast: settings that the variant has for this speed.",
            panel=_MODEL,
        ),
    ] = None
    decoder: Annotated[
        str | None, _option("--decoder", help="VAE decoder: full or tiny.", panel=_TUNING)
    ] = None
    deepcache: Annotated[
        bool, _option("--deepcache", help="Enable DeepCache: faster, less exact.", panel=_TUNING)
    ] = False
    deadline_ms: Annotated[
        int | None,
        _option("--deadline-ms", help="Fail unless ready within so many milliseconds.",
                panel=_TUNING),
    ] = None  # fmt: skip

    def fields(self) -> dict[str, Any]:
        """Return keyword arguments of a client's `generate`, without the prompt and the photo."""
        options = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("prompt", "photo", "lora"):
            del options[name]
        renamed = {_FIELD_NAMES.get(name, name): value for name, value in options.items()}
        if self.lora:
            renamed["loras"] = [_parse_lora(text) for text in self.lora]
        # Flags that are off are left out, because an older service may reject unknown fields.
        return {
            name: value
            for name, value in renamed.items()
            if value is not None and (value is not False or name == "use_karras_sigmas")
        }


def _parse_lora(text: str) -> dict[str, Any]:
    name, _, strength = text.partition("=")
    try:
        return {"name": name, "strength": float(strength or 1.0)}
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not NAME or NAME=STRENGTH", param_hint="--lora"
        ) from None


@dataclass
class Service:
    """Address and token of the service, timeout in seconds, and number of retries."""

    url: Annotated[
        str,
        typer.Option(envvar="MODEL_SERVER_URL", help="URL of the service.", rich_help_panel=_PANEL),
    ] = DEFAULT_URL
    token: Annotated[
        str | None,
        typer.Option(
            envvar="API_TOKEN",
            show_envvar=True,
            help="Bearer token, if the service requires one.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="Limit of one call, retries included.",
            rich_help_panel=_PANEL,
        ),
    ] = 120.0
    retries: Annotated[
        int,
        typer.Option(
            min=0,
            help="Maximum number of retries after a connection error, HTTP 429 or 503.",
            rich_help_panel=_PANEL,
        ),
    ] = 3

    def client(self) -> Client:
        """Return a synchronous client."""
        return Client(self.url, token=self.token, timeout=self.timeout, retries=self.retries)

    def async_client(self) -> AsyncClient:
        """Return an asynchronous client."""
        return AsyncClient(self.url, token=self.token, timeout=self.timeout, retries=self.retries)
