"""Google Cloud Storage as an origin, through Google's own client."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import google.auth
import requests
from google.api_core.exceptions import (
    Forbidden,
    GoogleAPIError,
    NotFound,
    PreconditionFailed,
    Unauthorized,
)
from google.auth._cloud_sdk import get_application_default_credentials_path
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from models.progress import Progress
from models.sources import Source, SourceError, SourceFile, check_name
from models.transfer import ChecksumError, TransferOptions, download

_ATTEMPTS = 3
_TIMEOUT = (10, 60)
"""Seconds to connect, and between two blocks."""

_RETRY = DEFAULT_RETRY.with_delay(initial=0.25, maximum=10.0, multiplier=2.0)
"""For transient errors: 408, 429, 5xx, connections that are lost or silent."""


class _ReplacedError(SourceError):
    """The object is another one than when its download began."""


class Bucket:
    """Objects of Google Cloud Storage, with application default credentials or none.

    `STORAGE_EMULATOR_HOST` is obeyed, as by every client of Google's.
    """

    def __init__(self, options: TransferOptions) -> None:
        self._options = options
        self._retry = _RETRY.with_timeout(options.retry_seconds)
        self._clients: dict[str | None, Any] = {}
        self._lock = threading.Lock()

    def files(self, source: Source) -> list[SourceFile]:
        """The object, or the objects below the path; SourceError when there is none."""
        client = self._client(source)
        with _translated(source.text):
            if source.is_file:
                blob = client.bucket(source.root).get_blob(source.path, retry=self._retry)
                if blob is None:
                    raise SourceError(f"{source.text} does not exist in the bucket")
                return [_described(blob, Path(source.path).name)]
            prefix = f"{source.path}/" if source.path else ""
            blobs = client.list_blobs(source.root, prefix=prefix, retry=self._retry)
            found = [
                _described(blob, check_name(source, blob.name.removeprefix(prefix)))
                for blob in blobs
                if not blob.name.endswith("/")
            ]
        if not found:
            raise SourceError(f"{source.text}: the bucket holds nothing there")
        return found

    def fetch(self, source: Source, file: SourceFile, target: Path, progress: Progress) -> None:
        """Download an object; one that is replaced or damaged meanwhile is begun again.

        Raises:
            SourceError: refused, missing, or still failing after the last attempt.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._fetch(source, file, target, progress)
            except (ChecksumError, _ReplacedError):
                if attempt == _ATTEMPTS:
                    raise
                (file,) = (item for item in self.files(source) if item.name == file.name)
            else:
                return

    def _fetch(self, source: Source, file: SourceFile, target: Path, progress: Progress) -> None:
        path, label = source.path_of(file.name), source.address(file.name)
        bucket = self._client(source).bucket(source.root)

        def read_range(stream: BinaryIO, start: int, end: int) -> None:
            with _translated(label):
                bucket.blob(path).download_to_file(
                    stream,
                    start=start,
                    end=end,
                    raw_download=True,
                    if_generation_match=int(file.version) if file.version else None,
                    checksum=None,
                    retry=self._retry,
                    timeout=_TIMEOUT,
                )

        download(read_range, file, label, target, progress, self._options)

    def _client(self, source: Source) -> Any:
        with self._lock:
            if source.endpoint not in self._clients:
                self._clients[source.endpoint] = _connect(source.endpoint, self._options.workers)
            return self._clients[source.endpoint]


def _connect(endpoint: str | None, workers: int) -> Any:
    options = {"client_options": {"api_endpoint": endpoint}} if endpoint else {}
    if "STORAGE_EMULATOR_HOST" in os.environ:
        client = storage.Client.create_anonymous_client()
    elif _has_credentials():
        credentials, project = google.auth.default()
        client = storage.Client(project=project or "none", credentials=credentials, **options)
    else:
        # Asking google.auth would wait for a metadata server that rented machines do not have.
        client = storage.Client(
            project="none", credentials=google.auth.credentials.AnonymousCredentials(), **options
        )
    adapter = requests.adapters.HTTPAdapter(pool_connections=workers, pool_maxsize=workers)
    client._http.mount("https://", adapter)
    client._http.mount("http://", adapter)
    return client


def _has_credentials() -> bool:
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    return bool(named) or Path(get_application_default_credentials_path()).is_file()


def _described(blob: Any, name: str) -> SourceFile:
    return SourceFile(name, int(blob.size), crc32c=blob.crc32c, version=str(blob.generation))


@contextmanager
def _translated(label: str) -> Iterator[None]:
    """Google's errors as SourceErrors that say what to do."""
    try:
        yield
    except NotFound as error:
        raise SourceError(f"{label} does not exist in the bucket") from error
    except (Forbidden, Unauthorized) as error:
        raise SourceError(
            f"{label}: the bucket refuses access ({int(error.code or 0)}), or does not have it. "
            "For a private bucket set GOOGLE_APPLICATION_CREDENTIALS"
        ) from error
    except PreconditionFailed as error:
        raise _ReplacedError(f"{label} was replaced while it was being downloaded") from error
    except (GoogleAPIError, GoogleAuthError, requests.RequestException, OSError) as error:
        # Texts of network errors hold addresses, which the health answer must not show.
        raise SourceError(f"{label} cannot be fetched: {_kind(error)}") from error


def _kind(error: Exception) -> str:
    """The error's class, and the status where the bucket answered at all."""
    cause = getattr(error, "cause", None) or error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    return f"{type(cause).__name__} ({status})" if status else type(cause).__name__
