"""The playground: a web page of static files, served beside the API."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parents[1] / "playground"

_HEADERS = {
    # Nothing from elsewhere, and nothing within the page that is not a file of it.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Kept, and asked for again by its ETag: an update shows at the next load.
    "Cache-Control": "no-cache",
}


class _Page(StaticFiles):
    """Static files with the page's headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


async def _with_slash(request: Request) -> Response:
    """On to the folder, by a relative address: a proxy may have put a prefix before it."""
    query = f"?{request.url.query}" if request.url.query else ""
    return Response(status_code=307, headers={"Location": f"playground/{query}"})


def playground_routes() -> list[BaseRoute]:
    """GET and HEAD of `/playground` and the files beneath it; other paths are 404."""
    return [
        Route("/playground", _with_slash),
        Mount("/playground", _Page(directory=FOLDER, html=True)),
    ]
