"""Scenario files: a traffic mix in TOML, validated by pydantic models."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)  # fmt: skip

from experimance.load.cli import UsageError, join_names
from experimance.load.inputs import (
    IMAGE_FORMS,
    ImageSource,
    TomlTable,
    accept,
    parse_image_source,
)  # fmt: skip

_VALUE_FORMS = (
    "a value, { choice = [a, b] }, { choice = [a, b], weights = [3, 1] }, { range = [low, high] } "
    "or { sequence = [a, b], every = 10 }"
)
_DEPTH_FORMS = f'"mock", {IMAGE_FORMS}'
_MEDIA_TYPES = {"json": "application/json", "jpeg": "image/jpeg", "png": "image/png"}
_MAX_SCENARIOS = 64
_REQUIRED = {
    "name": "a text without : < > =",
    "after": "seconds, or { range = [low, high] }",
    "scenario": f"1 to {_MAX_SCENARIOS} tables [[scenario]]",
}

_Number = StrictInt | Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Values = Annotated[tuple[Any, ...], Field(min_length=1), accept("a list of values")]


@dataclass(frozen=True, slots=True)
class Fixed:
    """Constant value of a request field."""

    value: Any

    def draw(self, rng: np.random.Generator, number: int) -> Any:
        """Return the value."""
        return self.value


class Choice(TomlTable):
    """Random choice among values, uniform or weighted."""

    choice: _Values
    weights: tuple[Annotated[_Number, Field(ge=0)], ...] | None = None

    @field_validator("weights", mode="wrap")
    @classmethod
    def _check_weights(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        count = len(info.data.get("choice", ()))
        try:
            weights = handler(value)
        except ValidationError:
            weights = ()
        if len(weights) != count or sum(weights) <= 0:
            raise ValueError(f"{value!r} is not accepted; use {count} numbers from 0")
        return weights

    @cached_property
    def _shares(self) -> tuple[float, ...]:
        weights = self.weights or (1,) * len(self.choice)
        return tuple(weight / sum(weights) for weight in weights)

    def draw(self, rng: np.random.Generator, number: int) -> Any:
        """Return a random value."""
        return self.choice[rng.choice(len(self.choice), p=self._shares)]


def _check_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the lower bound comes first")
    return bounds


class Range(TomlTable):
    """Uniform number between two bounds, both included; an integer if both bounds are."""

    range: Annotated[tuple[_Number, _Number], AfterValidator(_check_order), accept("[low, high]")]

    def draw(self, rng: np.random.Generator, number: int) -> float:
        """Return a random number within the bounds."""
        low, high = self.range
        if isinstance(low, int) and isinstance(high, int):
            return int(rng.integers(low, high, endpoint=True))
        return float(rng.uniform(low, high))


class Cycle(TomlTable):
    """Values in the order of request numbers, each for `every` requests, then from the start."""

    sequence: _Values
    every: Annotated[StrictInt, Field(ge=1), accept("a whole number from 1")] = 1

    def draw(self, rng: np.random.Generator, number: int) -> Any:
        """Return the value for a request number."""
        return self.sequence[number // self.every % len(self.sequence)]


Value = Fixed | Choice | Range | Cycle


def parse_value(spec: Any) -> Value:
    """Return the value that a scenario file states for a request field.

    Raises:
        ValueError: A table has none of the accepted forms.
    """
    if not isinstance(spec, Mapping):
        return Fixed(spec)
    models: dict[str, type[Choice | Range | Cycle]] = {
        "choice": Choice, "range": Range, "sequence": Cycle,
    }  # fmt: skip
    for key, model in models.items():
        if key in spec:
            return model.model_validate(spec)
    raise ValueError(f"{spec!r} is not accepted; use {_VALUE_FORMS}")


def _check_table(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is not accepted; use a table")
    return value


_Value = Annotated[Value, PlainValidator(parse_value)]
_Fields = Annotated[dict[str, _Value], BeforeValidator(_check_table)]
_SECONDS: TypeAdapter[float] = TypeAdapter(
    Annotated[_Number, Field(ge=0, le=3600), accept("a number from 0 to 3600")]
)


def _check_seconds(value: Value) -> Value:
    match value:
        case Fixed():
            candidates: tuple[Any, ...] = (value.value,)
        case Choice():
            candidates = value.choice
        case Range():
            candidates = value.range
        case Cycle():
            candidates = value.sequence
    for candidate in candidates:
        _SECONDS.validate_python(candidate)
    return value


class Abandonment(TomlTable):
    """Cancellation or disconnect of a `share` of requests, `after` seconds from sending."""

    after: Annotated[_Value, AfterValidator(_check_seconds)]
    share: Annotated[_Number, Field(ge=0, le=1), accept("a number from 0 to 1")] = 1.0


def _parse_depth(spec: Any) -> Literal["mock"] | ImageSource:
    return "mock" if spec == "mock" else parse_image_source(spec, _DEPTH_FORMS)


class _ScenarioTable(TomlTable):
    """One `[[scenario]]`."""

    name: Annotated[
        str, Field(pattern=r"^[^:<>=]*[^:<>=\s][^:<>=]*$"), accept(_REQUIRED["name"])
    ]  # fmt: skip
    weight: Annotated[_Number, Field(ge=0, le=1e6), accept("a number from 0 to 1e+06")] = 1
    stream: Annotated[StrictBool, accept("true or false")] = False
    answer: Annotated[Literal["json", "jpeg", "png"], accept(join_names(_MEDIA_TYPES))] = "json"
    depth: Annotated[Literal["mock"] | ImageSource | None, PlainValidator(_parse_depth)] = None
    image: Annotated[ImageSource | None, PlainValidator(parse_image_source)] = None
    cancel: Abandonment | None = None
    leave: Abandonment | None = None
    fields: _Fields = Field(default_factory=dict)

    @field_validator("answer")
    @classmethod
    def _check_answer(cls, answer: str, info: ValidationInfo) -> str:
        if info.data.get("stream") and answer != "json":
            raise ValueError(f"{answer!r} is not accepted; the answer of a stream is json")
        return answer


class _LoadTable(TomlTable):
    """`[load]`; `build_plan` validates the values together with the command's options."""

    rate: Any = None
    clients: Any = None
    think: Any = None
    arrivals: Any = None
    duration: Any = None
    requests: Any = None
    warmup: Any = None


LOAD_KEYS = tuple(_LoadTable.model_fields)


def _check_count(value: Any) -> Any:
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_SCENARIOS:
        raise ValueError(f"use {_REQUIRED['scenario']}")
    return value


def _check_names(scenarios: tuple[_ScenarioTable, ...]) -> tuple[_ScenarioTable, ...]:
    names = [scenario.name for scenario in scenarios]
    if len(set(names)) < len(names):
        raise ValueError(f"names must differ; they are {join_names(names)}")
    return scenarios


class _TrafficTable(TomlTable):
    """A whole scenario file."""

    description: Annotated[str, BeforeValidator(str)] = ""
    seed: Annotated[StrictInt, Field(ge=0, le=2**63 - 1), accept("a whole number from 0")] = 0
    load: _LoadTable = Field(default_factory=_LoadTable)
    fields: _Fields = Field(default_factory=dict)
    scenario: Annotated[
        tuple[_ScenarioTable, ...], BeforeValidator(_check_count), AfterValidator(_check_names)
    ]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Request template; each request sends one of `depth_maps` and of `init_images` (base64)."""

    name: str
    weight: float
    fields: Mapping[str, Value]
    stream: bool
    media_type: str
    depth_maps: tuple[str, ...]
    init_images: tuple[str, ...]
    cancel: Abandonment | None
    leave: Abandonment | None


@dataclass(frozen=True, slots=True)
class Traffic:
    """Mix of scenarios; `text` is the file's content and `load` its table of that name."""

    name: str
    description: str
    text: str
    seed: int
    scenarios: tuple[Scenario, ...]
    load: Mapping[str, Any] = field(default_factory=dict)


def list_bundled() -> tuple[str, ...]:
    """Return the names of the scenario files in this package."""
    folder = resources.files("experimance.load") / "scenarios"
    return tuple(sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".toml")))


def read_traffic(name: str, seed: int | None = None) -> Traffic:
    """Return the mix of a scenario file.

    Args:
        name: A path, or a name of `list_bundled()`.
        seed: Replaces the file's own seed.

    Raises:
        UsageError: The file cannot be read or is invalid; the error names the key.
    """
    if name in list_bundled():
        file = resources.files("experimance.load") / "scenarios" / f"{name}.toml"
        return parse_traffic(file.read_text("utf-8"), name, Path(), seed)
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        known = f"accepted: a TOML file, or one of {join_names(list_bundled())}"
        raise UsageError("--scenario", f"{name} cannot be read: {reason}; {known}") from None
    return parse_traffic(text, path.name, path.parent, seed)


def parse_traffic(text: str, name: str, folder: Path, seed: int | None = None) -> Traffic:
    """Return the mix that a TOML text describes.

    Args:
        text: Content of a scenario file.
        name: Name of the mix, for messages and reports.
        folder: Base of relative image paths.
        seed: Replaces the file's own seed.

    Raises:
        UsageError: The text is not TOML, or a key or value is not accepted.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(name, f"is not TOML: {error}") from None
    if seed is not None:
        document["seed"] = seed
    try:
        table = _TrafficTable.model_validate(document)
    except ValidationError as error:
        raise _convert_error(error, name, document) from None
    scenarios = tuple(
        _build_scenario(scenario, table, f"{name}: scenario {scenario.name}", folder)
        for scenario in table.scenario
    )
    load = table.load.model_dump(exclude_unset=True)
    return Traffic(name, table.description, text, table.seed, scenarios, load)


def _convert_error(error: ValidationError, name: str, document: Mapping[str, Any]) -> UsageError:
    """Return the first validation error with its path in the file."""
    first = error.errors()[0]
    where, path = name, first["loc"]
    if len(path) > 1 and path[0] == "scenario":
        index = int(path[1])
        is_named = len(path) > 2 and path[2] != "name"
        label = document["scenario"][index]["name"] if is_named else index + 1
        where, path = f"{name}: scenario {label}", path[2:]
    if path:
        where += f": {'.'.join(map(str, path))}"
    if first["type"] == "missing":
        return UsageError(where, f"is needed; use {_REQUIRED[str(path[-1])]}")
    return UsageError(where, str(first["ctx"]["error"]))


def _build_scenario(
    table: _ScenarioTable, traffic: _TrafficTable, where: str, folder: Path
) -> Scenario:
    fields = {**traffic.fields, **table.fields}
    if table.depth == "mock":
        fields["mock_depth"] = Fixed(True)
    images: dict[str, tuple[str, ...]] = {}
    for key, source in (("depth", table.depth), ("image", table.image)):
        try:
            images[key] = source.load(folder, traffic.seed) if isinstance(source, TomlTable) else ()
        except ValueError as error:
            raise UsageError(f"{where}: {key}", str(error)) from None
    sent = {"depth_map_b64", "mock_depth", "image_b64"} & set(fields)
    if not any(images.values()) and not sent:
        raise UsageError(f"{where}: depth", f"is needed, or image; use {_DEPTH_FORMS}")
    return Scenario(
        name=table.name, weight=float(table.weight), fields=fields, stream=table.stream,
        media_type=_MEDIA_TYPES[table.answer], depth_maps=images["depth"],
        init_images=images["image"], cancel=table.cancel, leave=table.leave,
    )  # fmt: skip
