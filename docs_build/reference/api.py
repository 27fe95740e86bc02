"""Generator of the API reference, from the OpenAPI document at /docs.json."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from api.errors import CODES_BY_STATUS, ApiError
from api.handlers.sse import format_sse_event
from common.protocol import Queued, Started, Step
from docs_build.markdown import Schema, code, fields_table, page, reference, table

_SERVICE = "Service APIs"
_ORDER = ("/generate", "/generate_stream", "/estimate_depth", "/cancel", "/models", "/healthcheck")
Schemas = Mapping[str, Any]


class _SchemaLinks:
    """Bodies already on the page, and linked objects of requests and responses."""

    def __init__(self) -> None:
        self.is_answer: dict[str, bool] = {}
        self._paths: dict[str, str] = {}

    def earlier_duplicate(self, body: Schema, path: str) -> str | None:
        """Return the earlier path with the same fields, if any."""
        if not body.get("properties"):
            return None
        first = self._paths.setdefault(json.dumps(body, sort_keys=True), path)
        return first if first != path else None

    def link_input(self, name: str) -> str:
        """Return a link to an object of a request."""
        self.is_answer.setdefault(name, False)
        return f"[{name}](#{name.lower()})"

    def link_output(self, name: str) -> str:
        """Return a link to an object of a response."""
        self.is_answer.setdefault(name, True)
        return f"[{name}](#{name.lower()})"


def api_page(document: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        document: the OpenAPI document.
    """
    schemas = document["components"]["schemas"]
    routes = {
        path: methods
        for path, methods in document["paths"].items()
        if any(_SERVICE in route.get("tags", ()) for route in methods.values())
    }
    ordered = sorted(routes, key=lambda path: _ORDER.index(path) if path in _ORDER else len(_ORDER))
    objects = _SchemaLinks()
    parts = [part for path in ordered for part in _route(path, routes[path], schemas, objects)]
    return page(
        "API",
        document["info"]["description"].strip(),
        "While the service runs, the same is at `/` to try out, and at `/docs.json` for programs.",
        *parts,
        "## Events of a stream",
        "What `POST /generate_stream` sends, each as `event: …`, `data: …` and an empty line.",
        _events(),
        "## Errors",
        "One body for all of them, [ErrorBody](#errorbody). An answer with `Retry-After` is worth "
        "asking again after that many seconds. Causes, and what to do about each: "
        "[troubleshooting](../troubleshooting.md#answers-that-are-not-200).",
        _errors(),
        *_sections(schemas, objects),
    )


def _route(
    path: str, methods: Mapping[str, Any], schemas: Schemas, objects: _SchemaLinks
) -> Iterator[str]:
    route = methods.get("post") or methods["get"]
    names = " or ".join(method.upper() for method in methods if method in {"get", "post"})
    yield f"## {path}"
    yield f"`{names}`"
    yield inspect.cleandoc(route.get("description", ""))
    body = _content(route.get("requestBody", {}), schemas)
    if earlier := objects.earlier_duplicate(body, path):
        yield f"The fields of the request are those of [{earlier}](#{earlier.strip('/')})."
    elif body.get("properties"):
        yield "Fields of the request:"
        yield fields_table(body, objects.link_input)
    answer = route["responses"]["200"]
    good = _content(answer, schemas)
    if earlier := objects.earlier_duplicate(good, path):
        yield f"The answer is that of [{earlier}](#{earlier.strip('/')})."
    elif good.get("properties"):
        yield "Fields of the answer:"
        yield fields_table(good, objects.link_output, answers=True)
    pictures = [name for name in answer.get("content", {}) if name.startswith("image/")]
    if pictures:
        yield f"Or the picture itself, as {', '.join(code(name) for name in pictures)}."
    errors = sorted(status for status in route["responses"] if status != "200")
    yield f"Errors: {', '.join(errors)}."


def _content(part: Mapping[str, Any], schemas: Schemas) -> Schema:
    """Return the JSON schema of a body; empty without one."""
    schema = part.get("content", {}).get("application/json", {}).get("schema", {})
    return schemas[reference(schema)] if "$ref" in schema else schema


def _sections(schemas: Schemas, objects: _SchemaLinks) -> Iterator[str]:
    """Return a section for each linked object, including indirectly linked ones."""
    yield "## Objects within"
    objects.link_output("ErrorBody")
    done: set[str] = set()
    while waiting := [name for name in objects.is_answer if name not in done]:
        for name in waiting:
            done.add(name)
            is_answer = objects.is_answer[name]
            link = objects.link_output if is_answer else objects.link_input
            yield f"### {name}"
            yield schemas[name].get("description", "")
            yield fields_table(schemas[name], link, answers=is_answer)


def _events() -> str:
    examples = [
        ("queued", "requests before this one", format_sse_event(Queued(2))),
        ("started", "its first step is next", format_sse_event(Started())),
        ("step", "a step is done", format_sse_event(Step(3, 6, b""))),
        ("step", "the same with a preview, a small JPEG, at most five times a second",
         format_sse_event(Step(4, 6, b"\xff\xd8\xff"))),
    ]  # fmt: skip
    rows = [[code(name), meaning, code(_data(name, text))] for name, meaning, text in examples]
    rows += [
        [code("done"), "the last event: the answer of `POST /generate`", ""],
        [code("error"), "or this one: an `ErrorBody`", ""],
    ]
    return table(["event", "meaning", "data, for example"], rows)


def _data(name: str, text: str) -> str:
    event, data = text.strip().split("\n")
    if event != f"event: {name}":
        raise ValueError(f"{event!r} is not the event {name}")
    return json.dumps(json.loads(data.removeprefix("data: ")))


def _errors() -> str:
    meanings = {
        kind.status: inspect.getdoc(kind) or "" for kind in reversed(ApiError.__subclasses__())
    }
    rows = [
        [str(status), ", ".join(code(name) for name in codes), meanings[status]]
        for status, codes in CODES_BY_STATUS.items()
    ]
    return table(["status", "`error`", "meaning"], rows)
