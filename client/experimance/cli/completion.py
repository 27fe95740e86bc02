"""Shell completion of names from the service's catalog, limited to one second."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import typer

from experimance.client import Client
from experimance.errors import ExperimanceError
from experimance.http_options import DEFAULT_URL
from experimance.status import ModelsInfo

_SECONDS = 1.0


def complete_from(
    of: Callable[[ModelsInfo], tuple[str, ...]],
) -> Callable[[typer.Context, str], list[str]]:
    """Return a completion for the names that `of` selects; empty if the service is unreachable."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        parameters: dict[str, Any] = ctx.params
        url = parameters.get("url") or os.environ.get("MODEL_SERVER_URL") or DEFAULT_URL
        token = parameters.get("token") or os.environ.get("API_TOKEN") or None
        try:
            with Client(url, token=token, timeout=_SECONDS, retries=0) as client:
                names = of(client.models())
        except ExperimanceError:
            return []
        return [name for name in names if name.startswith(incomplete)]

    return complete


eras = complete_from(lambda info: info.eras)
models = complete_from(lambda info: info.models)
controlnets = complete_from(lambda info: info.controlnets)
schedulers = complete_from(lambda info: info.schedulers)
loras = complete_from(lambda info: info.loras)
estimators = complete_from(lambda info: info.depth_estimators)
