"""What pages of other sites may do through their visitors' browsers: nothing, if not named.

Two headers that a page cannot forge tell where a request comes from: `Origin` and, in newer
browsers, `Sec-Fetch-Site` (Fetch Metadata Request Headers, W3C). A page whose own name leads to
this machine (DNS rebinding) has the right origin but the wrong `Host`.
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
from api.settings import Settings, SettingsError

ANY = "*"
_PROBES = frozenset({"/livez", "/readyz"})
_OWN_SITES = frozenset({"same-origin", "none"})
_EXPOSED = ("X-Request-Id", "X-Seed", "X-Model", "X-Timings", "X-Depth-Estimator", "Retry-After")
_PREFLIGHT_SECONDS = 600
_NAME = re.compile(r"\*|[A-Za-z0-9._:-]+")


class Sites:
    """Which names the service has, and which other sites' pages may use it.

    Raises:
        SettingsError: ALLOWED_HOSTS or CORS_ORIGINS has something that is no name or no origin.
    """

    def __init__(self, settings: Settings) -> None:
        self.origins = tuple(_listed(settings.cors_origins))
        for origin in self.origins:
            parts = urlsplit(origin)
            if origin != ANY and origin != f"{parts.scheme}://{parts.netloc}":
                raise SettingsError(
                    f"CORS_ORIGINS: {origin!r} is neither {ANY} nor like https://example.org:8443"
                )
        names = {name.lower().rstrip(".") for name in _listed(settings.allowed_hosts)}
        for name in names:
            if not _NAME.fullmatch(name) or name.startswith("http:") or name.startswith("https:"):
                raise SettingsError(
                    f"ALLOWED_HOSTS: {name!r} is neither {ANY} nor a name or an address"
                )
        listens = settings.model_server_host
        self._names = names | {"localhost", listens.lower()}
        # Who listens on every address is known by all of them, and cannot know those of a NAT.
        self._any_address = listens in {"0.0.0.0", "::"}  # noqa: S104

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Refuse a name that is not the service's, and what another site's page has sent.

        Raises:
            InvalidRequest: names the header and what it may be.
        """
        host = headers.get("host", "")
        if not self._is_own(host) and path not in _PROBES:
            raise InvalidRequest.field(
                "Host", "is no name of this service; ALLOWED_HOSTS lists its names"
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
        """Whether CORS_ORIGINS names a site."""
        return ANY in self.origins or origin in self.origins

    def _is_own(self, host: str) -> bool:
        # Without the header it is no browser.
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
    """Adds the headers by which browsers let the pages of CORS_ORIGINS read answers, errors too."""

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
        """Handle one request; those of other pages go through as they are, to be refused."""
        if scope["type"] == "http":
            origin = Headers(scope=scope).get("origin")
            if origin is not None and self._sites.allows(origin):
                await self._with_headers(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _listed(text: str | None) -> Iterable[str]:
    return (part.strip() for part in (text or "").split(",") if part.strip())


def _foreign(header: str) -> InvalidRequest:
    return InvalidRequest.field(
        header, "pages of other sites may not use this service; CORS_ORIGINS lists those that may"
    )
