"""Hugging Face Hub backend, based on the Hub's client library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from tqdm import tqdm

from models.sources.base import Source, SourceError, SourceFile, check_name
from models.sources.progress import Progress

_UNAUTHORIZED = 401


class HubSource:
    """Backend for repositories, at the source's commit or the head of the main branch.

    `HF_TOKEN` grants access to private and gated repositories.
    """

    def files(self, source: Source) -> list[SourceFile]:
        """Return the file, or the files under the path.

        Raises:
            SourceError: There are none, or the repository is inaccessible.
        """
        with translate_hub_errors(source.uri, source.container):
            info = HfApi().model_info(
                source.container, revision=source.revision, files_metadata=True
            )
        prefix = "" if source.is_file or not source.path else f"{source.path}/"
        found = []
        for entry in info.siblings or []:
            name = entry.rfilename
            if source.is_file and name != source.path:
                continue
            if not name.startswith(prefix):
                continue
            short = Path(name).name if source.is_file else name.removeprefix(prefix)
            digest = entry.lfs.sha256 if entry.lfs is not None else None
            found.append(
                SourceFile(
                    check_name(source, short), entry.size or 0, sha256=digest, version=info.sha
                )
            )
        if not found:
            raise SourceError(f"{source.uri}: the repository has no files there")
        return found

    def fetch(self, source: Source, file: SourceFile, target: Path, progress: Progress) -> None:
        """Download a file; an interrupted download resumes.

        Args:
            source: Source of the file.
            file: One of the source's files.
            target: Path of the result; its folder exists.
            progress: Receiver of the download's progress.

        Raises:
            SourceError: The file is inaccessible or missing, or the Hub is unreachable.
        """
        path, label = source.path_of(file.name), source.url_of(file.name)
        progress.begin(label, file.size)

        class ProgressBridge(tqdm):  # type: ignore[misc]
            """Progress bar that updates `progress` instead of the terminal."""

            def __init__(self, *arguments: Any, **options: Any) -> None:
                options["disable"] = True
                super().__init__(*arguments, **{k: v for k, v in options.items() if k != "name"})
                progress.begin(label, file.size, int(options.get("initial") or 0))

            def update(self, n: float | None = 1) -> bool | None:
                progress.advance(label, int(n or 0))
                return None

        with translate_hub_errors(label, source.container):
            # The Hub client keeps partial downloads in `local_dir`, so it gets its own folder.
            downloaded = hf_hub_download(
                source.container,
                path,
                revision=file.version,
                local_dir=target.parent / ".hub",
                tqdm_class=ProgressBridge,
            )
        Path(downloaded).replace(target)


@contextmanager
def translate_hub_errors(label: str, repository: str) -> Iterator[None]:
    """Convert the block's Hub and network errors to SourceErrors.

    Args:
        label: Start of the messages, such as the source's URI.
        repository: Owner and name of the repository.

    Raises:
        SourceError: The block raised such an error.
    """
    try:
        yield
    except GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{repository}"
        # The Hub answers 401 without a token, and 403 to an account without access.
        if error.response.status_code == _UNAUTHORIZED:
            advice = f"accept its terms at {page} and set HF_TOKEN to a token of that account"
        else:
            advice = (
                "the account of the token in HF_TOKEN has not accepted its terms; "
                f"accept them at {page}"
            )
        raise SourceError(f"{label}: the repository is gated: {advice}") from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"{label}: the Hub has no such repository, or it requires HF_TOKEN"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no response"
        raise SourceError(f"{label}: the Hub denies access ({status})") from error
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise SourceError(f"{label} cannot be fetched: {type(error).__name__}") from error
