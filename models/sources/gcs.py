"""Google Cloud Storage backend, based on Google's client library."""

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

from models.sources.base import Source, SourceError, SourceFile, check_name
from models.sources.progress import Progress
from models.sources.range_download import ChecksumError, TransferOptions, download

_ATTEMPTS = 3
_TIMEOUT = (10, 60)
"""Seconds to connect, and between two blocks of data."""

_RETRY = DEFAULT_RETRY.with_delay(initial=0.25, maximum=10.0, multiplier=2.0)
"""Retry policy for transient errors: 408, 429, 5xx, lost connections and timeouts."""


class ObjectReplacedError(SourceError):
    """The object was replaced during its download."""


class GcsSource:
    """Backend for Google Cloud Storage, with application default credentials or anonymous.

    `STORAGE_EMULATOR_HOST` redirects it to an emulator, as in all of Google's clients.
    """

    def __init__(self, options: TransferOptions) -> None:
        self._options = options
        self._retry = _RETRY.with_timeout(options.retry_seconds)
        self._clients: dict[str | None, Any] = {}
        self._lock = threading.Lock()

    def files(self, source: Source) -> list[SourceFile]:
        """Return the object, or the objects under the path.

        Raises:
            SourceError: There are none, or the bucket is inaccessible.
        """
        client = self._client(source)
        with translate_gcs_errors(source.uri):
            if source.is_file:
                blob = client.bucket(source.container).get_blob(source.path, retry=self._retry)
                if blob is None:
                    raise SourceError(f"{source.uri} does not exist in the bucket")
                return [_to_source_file(blob, Path(source.path).name)]
            prefix = f"{source.path}/" if source.path else ""
            blobs = client.list_blobs(source.container, prefix=prefix, retry=self._retry)
            found = [
                _to_source_file(blob, check_name(source, blob.name.removeprefix(prefix)))
                for blob in blobs
                if not blob.name.endswith("/")
            ]
        if not found:
            raise SourceError(f"{source.uri}: the bucket has no objects there")
        return found

    def fetch(self, source: Source, file: SourceFile, target: Path, progress: Progress) -> None:
        """Download an object; restart if it is replaced or its checksum fails.

        Args:
            source: Source of the object.
            file: One of the source's files.
            target: Path of the result; its folder exists.
            progress: Receiver of the download's progress.

        Raises:
            SourceError: The object is inaccessible or missing, or the last attempt failed.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._fetch(source, file, target, progress)
            except (ChecksumError, ObjectReplacedError):
                if attempt == _ATTEMPTS:
                    raise
                (file,) = (item for item in self.files(source) if item.name == file.name)
            else:
                return

    def _fetch(self, source: Source, file: SourceFile, target: Path, progress: Progress) -> None:
        path, label = source.path_of(file.name), source.url_of(file.name)
        bucket = self._client(source).bucket(source.container)

        def read_range(stream: BinaryIO, start: int, end: int) -> None:
            with translate_gcs_errors(label):
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
        # google.auth.default() would wait for a metadata server that rented machines lack.
        client = storage.Client(
            project="none", credentials=google.auth.credentials.AnonymousCredentials(), **options
        )
    adapter = requests.adapters.HTTPAdapter(pool_connections=workers, pool_maxsize=workers)
    # The client has no public option for the size of its connection pool.
    session = client._http  # noqa: SLF001
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return client


def _has_credentials() -> bool:
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    return bool(named) or Path(get_application_default_credentials_path()).is_file()


def _to_source_file(blob: Any, name: str) -> SourceFile:
    return SourceFile(name, int(blob.size), crc32c=blob.crc32c, version=str(blob.generation))


@contextmanager
def translate_gcs_errors(label: str) -> Iterator[None]:
    """Convert the block's Google and network errors to SourceErrors that suggest a remedy.

    Raises:
        SourceError: The block raised such an error.
    """
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
        raise ObjectReplacedError(f"{label} was replaced while it was being downloaded") from error
    except (GoogleAPIError, GoogleAuthError, requests.RequestException, OSError) as error:
        # Network error texts contain addresses, which the health endpoint must not expose.
        raise SourceError(f"{label} cannot be fetched: {_kind(error)}") from error


def _kind(error: Exception) -> str:
    """Return the error's class name, and the HTTP status if there was a response."""
    cause = getattr(error, "cause", None) or error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    return f"{type(cause).__name__} ({status})" if status else type(cause).__name__
