"""Playground: a web page of static files, served beside the API."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parents[2] / "playground"

_HEADERS = {
    # Allows the page's own files only: no external resources and no inline code.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Browsers revalidate by ETag, so an update appears at the next load.
    "Cache-Control": "no-cache",
}


class _Page(StaticFiles):
    """Static files with the page's headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


async def _redirect_to_slash(request: Request) -> Response:
    """Redirect to the folder by a relative URL, because a proxy may add a path prefix."""
    query = f"?{request.url.query}" if request.url.query else ""
    return Response(status_code=307, headers={"Location": f"playground/{query}"})


def playground_routes() -> list[BaseRoute]:
    """Return the routes of `/playground` and its files, for GET and HEAD."""
    return [
        Route("/playground", _redirect_to_slash),
        Mount("/playground", _Page(directory=FOLDER, html=True)),
    ]
