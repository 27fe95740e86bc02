"""The Hugging Face hub as an origin, through its own client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from tqdm import tqdm

from models.progress import Progress
from models.sources import Source, SourceError, SourceFile, check_name


class Hub:
    """Files of a repository, at the source's commit or the head of its main branch.

    `HF_TOKEN` gives access to more.
    """

    def files(self, source: Source) -> list[SourceFile]:
        """The file, or the files below the path; SourceError when there is none."""
        with _translated(source.text):
            info = HfApi().model_info(source.root, revision=source.revision, files_metadata=True)
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
            raise SourceError(f"{source.text}: the repository holds nothing there")
        return found

    def fetch(self, source: Source, file: SourceFile, target: Path, progress: Progress) -> None:
        """Download a file; a killed download goes on where it was.

        Raises:
            SourceError: refused, missing, or the hub cannot be reached.
        """
        path, label = source.path_of(file.name), source.address(file.name)
        progress.begin(label, file.size)

        class Reported(tqdm):  # type: ignore[misc]
            """Tells the Progress instead of the terminal."""

            def __init__(self, *arguments: Any, **options: Any) -> None:
                options["disable"] = True
                super().__init__(*arguments, **{k: v for k, v in options.items() if k != "name"})
                progress.begin(label, file.size, int(options.get("initial") or 0))

            def update(self, n: float | None = 1) -> bool | None:
                progress.advance(label, int(n or 0))
                return None

        with _translated(label):
            # A folder of its own in which the hub's client keeps its unfinished parts.
            arrived = hf_hub_download(
                source.root,
                path,
                revision=file.version,
                local_dir=target.parent / ".hub",
                tqdm_class=Reported,
            )
        Path(arrived).replace(target)


@contextmanager
def _translated(label: str) -> Iterator[None]:
    try:
        yield
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"{label}: the hub has no such repository, or it asks for HF_TOKEN"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise SourceError(f"{label}: the hub refuses it ({status})") from error
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise SourceError(f"{label} cannot be fetched: {type(error).__name__}") from error
