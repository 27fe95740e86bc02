"""OpenAPI document: BentoML's, with this service's description and errors."""

from __future__ import annotations

from typing import Any

from api.errors import CODES_BY_STATUS
from common import __version__

_DESCRIPTION = """\
The service generates SDXL images that follow a depth map (grey, near = bright) and a prompt.

Every error has the same body, `ErrorBody`: a code, a message that names the field and its accepted
values, and the request id in the log. Send `X-Request-Id` to choose that id.
"""
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
_ANYWHERE = (400, 401, 413, 415, 500)
_WITH_RUNNER = (409, 429, 503, 504)
_GENERATION = {"/generate", "/generate_stream"}
_RUNNER = {"/cancel", "/preload", "/unload", "/estimate_depth", *_GENERATION}
_GENERIC = ("InvalidArgument", "NotFound", "InternalServerError")


def customize_openapi(document: dict[str, Any]) -> dict[str, Any]:
    """Change BentoML's document in place to the one of /docs.json, and return it."""
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
    image = {"schema": {"type": "string", "format": "binary"}}
    for path, types in (("/generate", _IMAGE_TYPES), ("/estimate_depth", ("image/png",))):
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        content.update(dict.fromkeys(types, image))
    return document


def _error(status: int) -> dict[str, Any]:
    reference = {"$ref": "#/components/schemas/ErrorBody"}
    return {
        "description": ", ".join(f"`{code}`" for code in CODES_BY_STATUS[status]),
        "content": {"application/json": {"schema": reference}},
    }
