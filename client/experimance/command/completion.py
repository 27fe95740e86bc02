"""What the shell offers for names: asked of the service, which has a moment to answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import typer

from experimance.client import Client
from experimance.connection import DEFAULT_URL
from experimance.errors import ExperimanceError
from experimance.states import ModelsInfo

_SECONDS = 1.0


def names(of: Callable[[ModelsInfo], tuple[str, ...]]) -> Callable[[typer.Context, str], list[str]]:
    """A completion of those names of the catalog that `of` picks; nothing where none answers."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        given: dict[str, Any] = ctx.params
        url = given.get("url") or os.environ.get("MODEL_SERVER_URL") or DEFAULT_URL
        token = given.get("token") or os.environ.get("API_TOKEN") or None
        try:
            with Client(url, token=token, timeout=_SECONDS, retries=0) as client:
                known = of(client.models())
        except ExperimanceError:
            return []
        return [name for name in known if name.startswith(incomplete)]

    return complete


eras = names(lambda info: info.eras)
models = names(lambda info: info.models)
controlnets = names(lambda info: info.controlnets)
schedulers = names(lambda info: info.schedulers)
loras = names(lambda info: info.loras)
estimators = names(lambda info: info.depth_estimators)
