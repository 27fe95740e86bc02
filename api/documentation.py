"""The OpenAPI document: BentoML's, with this service's own words and errors."""

from __future__ import annotations

from typing import Any

from api import __version__
from api.errors import STATUSES

_DESCRIPTION = """\
A depth map (grey, near = bright) and a prompt go in, an SDXL picture that follows the depth comes
out.

Every error has one body, `ErrorBody`: a code, a message that names the field and what it accepts,
and the request id under which the log has it. Send `X-Request-Id` to choose that id.
"""
_PICTURES = ("image/jpeg", "image/png", "image/webp")
_ANYWHERE = (400, 401, 413, 415, 500)
_WITH_RUNNER = (409, 429, 503, 504)
_PAINTING = {"/generate", "/generate_stream"}
_RUNNER = {"/cancel", "/preload", "/unload", "/estimate_depth", *_PAINTING}
_GENERIC = ("InvalidArgument", "NotFound", "InternalServerError")


def documented(document: dict[str, Any]) -> dict[str, Any]:
    """The document that /docs.json answers, made from BentoML's; changes and returns it."""
    document["info"] = {
        "title": "experimance-controlnet",
        "version": __version__,
        "description": _DESCRIPTION,
    }
    schemas = document["components"]["schemas"]
    for name in _GENERIC:
        schemas.pop(name, None)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if operation.get("tags") != ["Service APIs"]:
                continue
            codes = _ANYWHERE + (_WITH_RUNNER if path in _RUNNER else ())
            good = {"200": operation["responses"].get("200") or operation["responses"].get(200)}
            operation["responses"] = good | {str(code): _error(code) for code in codes}
    picture = {"schema": {"type": "string", "format": "binary"}}
    for path, types in (("/generate", _PICTURES), ("/estimate_depth", ("image/png",))):
        answered = document["paths"][path]["post"]["responses"]["200"]["content"]
        answered.update(dict.fromkeys(types, picture))
    return document


def _error(status: int) -> dict[str, Any]:
    reference = {"$ref": "#/components/schemas/ErrorBody"}
    return {
        "description": ", ".join(f"`{code}`" for code in STATUSES[status]),
        "content": {"application/json": {"schema": reference}},
    }
