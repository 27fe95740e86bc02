"""Generator of the catalog reference, from the schema and the shipped catalogs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter

from docs_build.markdown import code, fields_table, page, table
from models.catalog import SHIPPED, Catalog, ControlNetSpec, LoraSpec, load_catalog
from models.catalog.schema import DepthEstimatorSpec, Source

_INTRODUCTION = """\
A catalog is a TOML file: which weights a deployment serves, where they come from, and what a
request gets when it says nothing. [Models](../models.md) tells how to write one and import it.
Names are what requests use: small letters, digits and `_`, at most 48."""
_SOURCE = TypeAdapter(Source).json_schema()
_TITLES = {
    "Catalog": "The whole file",
    "VariantSpec": "models.NAME",
    "SchedulerSpec": "models.NAME.scheduler",
    "ControlNetSpec": "controlnets.NAME",
    "LoraSpec": "loras.NAME",
    "DepthEstimatorSpec": "depth_estimators.NAME",
    "EraSpec": "eras.NAME",
}


def catalog_page() -> str:
    """Return the page."""
    shipped = [load_catalog(path.stem) for path in sorted(SHIPPED.glob("*.toml"))]
    parts = [part for catalog in shipped for part in catalog_parts(catalog)]
    return page("Catalog", _INTRODUCTION, *_format(), *parts)


def _format() -> Iterator[str]:
    whole = _as_toml(Catalog.model_json_schema())
    whole["properties"].pop("file")
    schemas = {"Catalog": whole, **whole["$defs"]}
    yield "## The format"
    for name in sorted(schemas, key=lambda name: [*_TITLES, name].index(name)):
        title = _TITLES.get(name, name)
        yield f"### {title}"
        yield schemas[name].get("description", "")
        yield fields_table(schemas[name], _link)


def _as_toml(schema: Any) -> Any:
    """Return the schema without null, which TOML lacks, and with one type name for sources."""
    if isinstance(schema, list):
        return [_as_toml(part) for part in schema if part != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    if {"type", "pattern"} <= schema.keys() and schema["pattern"] == _SOURCE["pattern"]:
        schema = {**schema, "type": "source"}
    if "default" in schema and schema["default"] is None:
        schema = {**schema, "default": "unset"}
    return {name: _as_toml(part) for name, part in schema.items()}


def _link(name: str) -> str:
    title = _TITLES.get(name, name)
    return f"[{title}](#{title.lower().replace('.', '')})"


def catalog_parts(catalog: Catalog) -> Iterator[str]:
    """Return a list of a catalog's variants, ControlNets, LoRAs and eras."""
    yield f"## The catalog {code(catalog.name)}"
    yield (
        f"Default model {code(catalog.default_model)}, default ControlNet "
        f"{code(catalog.default_controlnet)}, networks stored "
        f"{'in ' + code(catalog.dtype) if catalog.dtype else 'as they come'}."
    )
    yield table(
        ["model", "", "size", "steps", "cfg", "scheduler", "source", "licence"],
        (
            [
                code(name), spec.description, str(spec.native_size), str(spec.steps),
                f"{spec.cfg:g}", spec.scheduler.class_name.removesuffix("Scheduler"),
                code(spec.source), spec.licence,
            ]
            for name, spec in catalog.models.items()
        ),
    )  # fmt: skip
    yield table(
        ["ControlNet, LoRA or depth estimator", "", "source", "licence"],
        (
            [code(name), spec.description, code(spec.source), spec.licence]
            for name, spec in _others(catalog)
        ),
    )
    yield table(
        ["era", *(code(name) for name in catalog.loras), "example prompt"],
        (
            [code(era), *(f"{spec.loras.get(name, 0):g}" for name in catalog.loras), spec.prompt]
            for era, spec in catalog.eras.items()
        ),
    )


def _others(
    catalog: Catalog,
) -> Iterator[tuple[str, ControlNetSpec | LoraSpec | DepthEstimatorSpec]]:
    yield from catalog.controlnets.items()
    yield from catalog.loras.items()
    yield from catalog.depth_estimators.items()
