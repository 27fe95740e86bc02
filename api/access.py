"""Who may call what: bearer tokens for callers, and others for the operator."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import structlog
from pydantic import SecretStr
from starlette.datastructures import Headers

from api.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

OPEN_ROUTES = {"/livez", "/readyz", "/healthcheck"}
# Files that hold no secret; what they call carries the token that somebody enters in the page.
_PLAYGROUND = "/playground"
_OWNER_DIGITS = 16
_MANAGEMENT_ROUTES = {"/preload", "/unload"}


class TokenSet:
    """Tokens from a setting and from a file that may change while the service runs.

    Raises:
        SettingsError: the setting is blank, or the file cannot be read at the start, or has no
            token.
    """

    def __init__(self, setting: str, given: SecretStr | None, file: Path | None) -> None:
        self._setting = setting
        self._given = _tokens((given.get_secret_value() if given else "").split(","))
        if given is not None and not self._given:
            # Somebody meant to ask for a token; without any, every route would be open.
            raise SettingsError(f"{setting}: is blank; leave it unset or give a token")
        self._file = file
        self._seen: tuple[int, int] | None = None
        self._read: tuple[bytes, ...] = ()
        if file is not None:
            try:
                self._look(file)
            except OSError as error:
                raise SettingsError(f"{setting}_FILE: {error.strerror}: {file}") from None
            if not self._read:
                raise SettingsError(f"{setting}_FILE: no token in {file}")

    @property
    def configured(self) -> bool:
        """Whether any token is asked for at all."""
        return bool(self._given) or self._file is not None

    def admits(self, token: bytes) -> bool:
        """Whether it is one of them, in a time that does not tell how much of it is right."""
        if self._file is not None:
            try:
                self._look(self._file)
            except OSError as error:
                # Those read last stay: nobody is let in, or locked out, by a file that moves.
                log.error("token file not read", setting=f"{self._setting}_FILE", error=str(error))
        # All of them, whether or not one was right.
        return sum(hmac.compare_digest(token, known) for known in (*self._given, *self._read)) > 0

    def _look(self, file: Path) -> None:
        state = file.stat()
        stamp = (state.st_mtime_ns, state.st_size)
        if stamp != self._seen:
            self._read = _tokens(file.read_text(encoding="utf-8").splitlines())
            self._seen = stamp


class Access:
    """What a request's token allows.

    The operator's tokens open everything; without any, callers' tokens do. Without callers'
    tokens anybody may paint.
    """

    def __init__(self, settings: Settings) -> None:
        self._callers = TokenSet("API_TOKEN", settings.api_token, settings.api_token_file)
        self._admins = TokenSet("ADMIN_TOKEN", settings.admin_token, settings.admin_token_file)

    def allows(self, path: str, headers: Headers) -> bool:
        """Whether a request with these headers may use a route."""
        if path in OPEN_ROUTES or path == _PLAYGROUND or path.startswith(f"{_PLAYGROUND}/"):
            return True
        if self.manages(headers):
            return True
        if path in _MANAGEMENT_ROUTES and self._admins.configured:
            return False
        return not self._callers.configured or self._callers.admits(_bearer(headers))

    def owner(self, headers: Headers) -> str:
        """Whose a request is: the same text for the same token, empty where none is asked for."""
        if not (self._callers.configured or self._admins.configured):
            return ""
        return hashlib.sha256(_bearer(headers)).hexdigest()[:_OWNER_DIGITS]

    def manages(self, headers: Headers) -> bool:
        """Whether a request may do what only the operator may, where there is one."""
        if self._admins.configured:
            return self._admins.admits(_bearer(headers))
        return not self._callers.configured or self._callers.admits(_bearer(headers))


def owned(session: str | None, owner: str) -> str | None:
    """A session under a name that no other owner can give it."""
    return session if session is None or not owner else f"{owner}/{session}"


def _bearer(headers: Headers) -> bytes:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip().encode() if scheme.lower() == "bearer" else b""


def _tokens(texts: list[str]) -> tuple[bytes, ...]:
    return tuple(text.strip().encode() for text in texts if text.strip())
