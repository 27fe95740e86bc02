"""A kind of request, and a mix of kinds as a TOML file describes it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from experimance.load.misuse import Misuse, listed
from experimance.load.pictures import pictures_of
from experimance.load.values import Fixed, Value, number_of, value_of

_TOP = ("description", "seed", "load", "fields", "scenario")
_KEYS = ("name", "weight", "stream", "answer", "depth", "image", "cancel", "leave", "fields")
_ANSWERS = {"json": "application/json", "jpeg": "image/jpeg", "png": "image/png"}
LOAD_KEYS = ("rate", "clients", "think", "arrivals", "duration", "requests", "warmup")
_SEEDS = 2**63 - 1
_LONGEST = 3600.0
_MOST_SCENARIOS = 64


@dataclass(frozen=True, slots=True)
class Parting:
    """Some requests are given up so many seconds after they were sent."""

    after: Value
    share: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of request; depth maps and images are base64, one of each is chosen per request."""

    name: str
    weight: float
    fields: Mapping[str, Value]
    stream: bool = False
    accept: str = "application/json"
    depth: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    cancel: Parting | None = None
    leave: Parting | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """A mix of scenarios; `load` is what the file says of rate, clients and the like."""

    name: str
    description: str
    text: str
    seed: int
    scenarios: tuple[Scenario, ...]
    load: Mapping[str, Any] = field(default_factory=dict)


def shipped() -> tuple[str, ...]:
    """The names of the scenario files that come with the package."""
    folder = resources.files("experimance.load") / "scenarios"
    return tuple(sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".toml")))


def read_traffic(name: str, seed: int | None = None) -> Traffic:
    """The mix of a file, or of one that comes with the package.

    Args:
        name: a path, or a name of `shipped()`.
        seed: goes before the file's own.

    Raises:
        Misuse: no such file, or one that says what cannot be done; names the key.
    """
    if name in shipped():
        text = (resources.files("experimance.load") / "scenarios" / f"{name}.toml").read_text(
            "utf-8"
        )
        return parse_traffic(text, name, Path(), seed)
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        known = f"accepted: a TOML file, or one of {listed(shipped())}"
        raise Misuse("--scenario", f"{name} cannot be read: {reason}; {known}") from None
    return parse_traffic(text, path.name, path.parent, seed)


def parse_traffic(text: str, name: str, folder: Path, seed: int | None = None) -> Traffic:
    """The mix that a TOML text describes; see `read_traffic`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Misuse(name, f"is no TOML: {error}") from None
    _only(document, _TOP, name)
    seed = document.get("seed", 0) if seed is None else seed
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= _SEEDS:
        raise Misuse(f"{name}: seed", f"{seed!r} is not accepted; use a whole number from 0")
    load = _table(document.get("load", {}), f"{name}: load")
    _only(load, LOAD_KEYS, f"{name}: load")
    kinds = document.get("scenario")
    if not isinstance(kinds, list) or not 1 <= len(kinds) <= _MOST_SCENARIOS:
        raise Misuse(f"{name}: scenario", f"use 1 to {_MOST_SCENARIOS} tables [[scenario]]")
    common = _table(document.get("fields", {}), f"{name}: fields")
    scenarios = tuple(
        _scenario(
            _table(kind, f"{name}: scenario"), f"{name}: scenario {number}", common, folder, seed
        )
        for number, kind in enumerate(kinds, 1)
    )
    names = [scenario.name for scenario in scenarios]
    if len(set(names)) < len(names):
        raise Misuse(f"{name}: scenario", f"names must differ; they are {listed(names)}")
    return Traffic(name, str(document.get("description", "")), text, seed, scenarios, load)


def _scenario(
    kind: Mapping[str, Any], where: str, common: Mapping[str, Any], folder: Path, seed: int
) -> Scenario:
    _only(kind, _KEYS, where)
    name = kind.get("name")
    if not isinstance(name, str) or not name.strip() or set(":<>=") & set(name):
        raise Misuse(f"{where}: name", f"{name!r} is not accepted; use a text without : < > =")
    where = where.rpartition("scenario")[0] + f"scenario {name}"
    weight = number_of(kind.get("weight", 1), f"{where}: weight", 0, 1e6)
    if not isinstance(weight, Fixed):
        raise Misuse(f"{where}: weight", "use one number")
    specs = {**common, **_table(kind.get("fields", {}), f"{where}: fields")}
    fields = {key: value_of(spec, f"{where}: fields.{key}") for key, spec in specs.items()}
    answer = kind.get("answer", "json")
    stream = kind.get("stream", False)
    if answer not in _ANSWERS:
        raise Misuse(f"{where}: answer", f"{answer!r} is not accepted; use {listed(_ANSWERS)}")
    if not isinstance(stream, bool):
        raise Misuse(f"{where}: stream", f"{stream!r} is not accepted; use true or false")
    if stream and answer != "json":
        raise Misuse(f"{where}: answer", f"{answer!r} is not accepted; a stream's answer is json")
    depth: tuple[str, ...] = ()
    if kind.get("depth") == "mock":
        fields["mock_depth"] = Fixed(True)
    elif "depth" in kind:
        depth = pictures_of(kind["depth"], f'{where}: depth ("mock" too)', folder, seed)
    image: tuple[str, ...] = ()
    if "image" in kind:
        image = pictures_of(kind["image"], f"{where}: image", folder, seed)
    if not depth and not image and not {"depth_map_b64", "mock_depth", "image_b64"} & set(fields):
        forms = '"mock", { files = […] }, { folder = … } or { terrain = 8, size = 512 }'
        raise Misuse(f"{where}: depth", f"is needed, or image; use {forms}")
    return Scenario(
        name, float(weight.value), fields, stream, _ANSWERS[answer], depth, image,
        _parting(kind.get("cancel"), f"{where}: cancel"),
        _parting(kind.get("leave"), f"{where}: leave"),
    )  # fmt: skip


def _parting(spec: Any, where: str) -> Parting | None:
    if spec is None:
        return None
    spec = _table(spec, where)
    _only(spec, ("after", "share"), where)
    if "after" not in spec:
        raise Misuse(f"{where}.after", "is needed: seconds, or { range = [low, high] }")
    share = number_of(spec.get("share", 1.0), f"{where}.share", 0, 1)
    if not isinstance(share, Fixed):
        raise Misuse(f"{where}.share", "use one number from 0 to 1")
    return Parting(number_of(spec["after"], f"{where}.after", 0, _LONGEST), float(share.value))


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Misuse(where, f"{value!r} is not accepted; use a table")
    return value


def _only(table: Mapping[str, Any], accepted: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(table) - set(accepted))
    if unknown:
        raise Misuse(where, f"does not know {listed(unknown)}; accepted: {listed(accepted)}")
