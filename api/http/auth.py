"""Authorization by bearer tokens of callers and of the operator."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import structlog
from pydantic import SecretStr
from starlette.datastructures import Headers

from common.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

OPEN_ROUTES = {"/livez", "/readyz", "/healthcheck"}
# The files contain no secret; the page's API calls carry the token that its user enters.
_PLAYGROUND = "/playground"
_OWNER_DIGITS = 16
_MANAGEMENT_ROUTES = {"/preload", "/unload"}


class TokenSet:
    """Tokens from a setting and from a file that may change while the service runs.

    Args:
        setting: name of the setting.
        given: comma-separated tokens; None if unset.
        file: file with one token per line; None if unset.

    Raises:
        SettingsError: the setting is blank, the file is unreadable at the start, or it has no
            token.
    """

    def __init__(self, setting: str, given: SecretStr | None, file: Path | None) -> None:
        self._setting = setting
        self._setting_tokens = _tokens((given.get_secret_value() if given else "").split(","))
        if given is not None and not self._setting_tokens:
            # The operator intended to require a token; an empty set would open every route.
            raise SettingsError(f"{setting}: is blank; leave it unset or give a token")
        self._file = file
        self._stamp: tuple[int, int] | None = None
        self._file_tokens: tuple[bytes, ...] = ()
        if file is not None:
            try:
                self._reload_if_changed(file)
            except OSError as error:
                raise SettingsError(f"{setting}_FILE: {error.strerror}: {file}") from None
            if not self._file_tokens:
                raise SettingsError(f"{setting}_FILE: no token in {file}")

    @property
    def is_configured(self) -> bool:
        """Whether a token is required."""
        return bool(self._setting_tokens) or self._file is not None

    def contains(self, token: bytes) -> bool:
        """Return whether the token is in the set, using a constant-time comparison."""
        if self._file is not None:
            try:
                self._reload_if_changed(self._file)
            except OSError as error:
                # Keep the last tokens, so that a missing file neither admits nor locks out anyone.
                log.error("token file not read", setting=f"{self._setting}_FILE", error=str(error))
        # Compare with every token, so that the time does not depend on which one matches.
        known = (*self._setting_tokens, *self._file_tokens)
        return sum(hmac.compare_digest(token, each) for each in known) > 0

    def _reload_if_changed(self, file: Path) -> None:
        state = file.stat()
        stamp = (state.st_mtime_ns, state.st_size)
        if stamp != self._stamp:
            self._file_tokens = _tokens(file.read_text(encoding="utf-8").splitlines())
            self._stamp = stamp


class Access:
    """Access control by bearer token.

    The operator's tokens give access to every route. Without them, callers' tokens do. Without
    callers' tokens, generation is open to everyone.
    """

    def __init__(self, settings: Settings) -> None:
        self._callers = TokenSet("API_TOKEN", settings.api_token, settings.api_token_file)
        self._admins = TokenSet("ADMIN_TOKEN", settings.admin_token, settings.admin_token_file)

    def allows(self, path: str, headers: Headers) -> bool:
        """Return whether a request with these headers may use a route."""
        if path in OPEN_ROUTES or path == _PLAYGROUND or path.startswith(f"{_PLAYGROUND}/"):
            return True
        if self.is_admin(headers):
            return True
        if path in _MANAGEMENT_ROUTES and self._admins.is_configured:
            return False
        return not self._callers.is_configured or self._callers.contains(_bearer(headers))

    def owner(self, headers: Headers) -> str:
        """Return an identifier of the request's token; empty if no token is required."""
        if not (self._callers.is_configured or self._admins.is_configured):
            return ""
        return hashlib.sha256(_bearer(headers)).hexdigest()[:_OWNER_DIGITS]

    def is_admin(self, headers: Headers) -> bool:
        """Return whether a request has operator rights; without operator tokens, callers do."""
        if self._admins.is_configured:
            return self._admins.contains(_bearer(headers))
        return not self._callers.is_configured or self._callers.contains(_bearer(headers))


def owned(session: str | None, owner: str) -> str | None:
    """Return a session name that is unique to its owner."""
    return session if session is None or not owner else f"{owner}/{session}"


def _bearer(headers: Headers) -> bytes:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip().encode() if scheme.lower() == "bearer" else b""


def _tokens(texts: list[str]) -> tuple[bytes, ...]:
    return tuple(text.strip().encode() for text in texts if text.strip())
