"""Protection against cross-origin requests and DNS rebinding.

Pages of other sites have no access unless CORS_ORIGINS lists them. Pages cannot forge the headers
`Origin` and `Sec-Fetch-Site` (Fetch Metadata Request Headers, W3C), which identify the sender. In
DNS rebinding, the `Origin` matches the request, but the `Host` is not a name of this service.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import InvalidRequest
from common.settings import Settings, SettingsError

ANY = "*"
_PROBES = frozenset({"/livez", "/readyz"})
_OWN_SITES = frozenset({"same-origin", "none"})
_EXPOSED = ("X-Request-Id", "X-Seed", "X-Model", "X-Timings", "X-Depth-Estimator", "Retry-After")
_PREFLIGHT_SECONDS = 600
_NAME = re.compile(r"\*|[A-Za-z0-9._:-]+")


class Sites:
    """Host names of the service and origins of other sites that may use it.

    Raises:
        SettingsError: ALLOWED_HOSTS has an invalid name, or CORS_ORIGINS an invalid origin.
    """

    def __init__(self, settings: Settings) -> None:
        self.origins = tuple(_split(settings.cors_origins))
        for origin in self.origins:
            parts = urlsplit(origin)
            if origin != ANY and origin != f"{parts.scheme}://{parts.netloc}":
                raise SettingsError(
                    f"CORS_ORIGINS: {origin!r} is neither {ANY} nor like https://example.org:8443"
                )
        names = {name.lower().rstrip(".") for name in _split(settings.allowed_hosts)}
        for name in names:
            if not _NAME.fullmatch(name) or name.startswith("http:") or name.startswith("https:"):
                raise SettingsError(
                    f"ALLOWED_HOSTS: {name!r} is neither {ANY} nor a name or an address"
                )
        listens = settings.model_server_host
        self._names = names | {"localhost", listens.lower()}
        # A service on all addresses accepts any address, because those of a NAT are unknown.
        self._any_address = listens in {"0.0.0.0", "::"}  # noqa: S104

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Check the Host header and the origin of a request.

        Args:
            method: HTTP method.
            path: path of the URL.
            headers: request headers.

        Raises:
            InvalidRequest: the host is not a name of the service, or the origin is not allowed.
        """
        host = headers.get("host", "")
        if not self._is_own(host) and path not in _PROBES:
            raise InvalidRequest.for_field(
                "Host", "is not a name of this service; ALLOWED_HOSTS lists its names"
            )
        origin = headers.get("origin")
        if origin is not None:
            if not self.allows(origin) and origin.partition("://")[2].lower() != host.lower():
                raise _foreign("Origin")
            return
        site = headers.get("sec-fetch-site", "none").lower()
        follows_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if site not in _OWN_SITES and not follows_link and ANY not in self.origins:
            raise _foreign("Sec-Fetch-Site")

    def allows(self, origin: str) -> bool:
        """Return whether CORS_ORIGINS lists an origin."""
        return ANY in self.origins or origin in self.origins

    def _is_own(self, host: str) -> bool:
        # Browsers always send the header.
        if not host or ANY in self._names:
            return True
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_address or address.is_loopback


class CrossOrigin:
    """Middleware that adds CORS headers to responses and errors for pages of CORS_ORIGINS."""

    def __init__(self, app: ASGIApp, sites: Sites) -> None:
        self._app = app
        self._sites = sites
        self._with_headers = CORSMiddleware(
            app,
            allow_origins=sites.origins,
            allow_methods=(ANY,),
            allow_headers=(ANY,),
            expose_headers=_EXPOSED,
            max_age=_PREFLIGHT_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; requests of other pages pass unchanged and are rejected later."""
        if scope["type"] == "http":
            origin = Headers(scope=scope).get("origin")
            if origin is not None and self._sites.allows(origin):
                await self._with_headers(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _split(text: str | None) -> Iterable[str]:
    return (part.strip() for part in (text or "").split(",") if part.strip())


def _foreign(header: str) -> InvalidRequest:
    return InvalidRequest.for_field(
        header, "pages of other sites may not use this service; CORS_ORIGINS lists those that may"
    )
