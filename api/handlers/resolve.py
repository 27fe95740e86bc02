"""Resolution of requests to jobs: names checked against the store, defaults filled in."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from api.errors import InvalidRequest, Unavailable, UnknownName
from api.http.auth import owned
from api.schemas.requests import GenerateRequest
from common.limits import RANDOM_SEEDS
from common.protocol import GenerateJob, LoadCommand, LoraWeight
from common.scheduler_table import SCHEDULERS, has_karras_sigmas
from common.step_window import resolve_window
from models.catalog import Catalog, SpeedSettings
from models.store.inventory import Inventory, LiveInventory, pick_default
from models.store.store import CatalogEntry

_FETCH_RETRY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    """Job without its images, with additional parts of the response.

    `digests` are the digests of the weights by catalog name. `depth_estimator` is None if the
    request has a depth map or needs none.
    """

    job: GenerateJob
    era: str | None
    warnings: tuple[str, ...]
    digests: Mapping[str, str]
    depth_estimator: str | None = None


class RequestResolver:
    """Resolver of requests against a catalog and the store's inventory of it."""

    def __init__(self, catalog: Catalog, inventory: LiveInventory) -> None:
        self.catalog = catalog
        self._live_inventory = inventory

    @property
    def inventory(self) -> Inventory:
        """Entries of the catalog that are in the store."""
        return self._live_inventory.inventory

    def resolve(
        self,
        request: GenerateRequest,
        request_id: str,
        arrived: float,
        previews: bool,
        owner: str = "",
    ) -> ResolvedRequest:
        """Return the job for a request, without its images.

        Args:
            request: a validated request.
            request_id: the request's own id, or a generated one.
            arrived: time of arrival in seconds, on the clock of `time.monotonic()`.
            previews: whether to send preview images during generation.
            owner: identity of the client's token; empty without tokens.

        Raises:
            InvalidRequest: a field does not fit the catalog or another field.
            UnknownName: a model, ControlNet, era, LoRA or estimator is not available.
            Unavailable: one of them is still being downloaded.
        """
        model = self.model(request.model)
        controlnet = self.controlnet(request.controlnet)
        spec = self.catalog.models[model]
        self._check_karras(request, model)
        speed = self._speed(request, model)
        guidance_start, guidance_end = resolve_window(
            request.guidance_start, request.guidance_end, (speed.guidance_start, speed.guidance_end)
        )
        cached = request.enable_deepcache
        loras, warnings = self._loras(request)
        estimator = self._estimator(request)
        controlled = request.depth_map_b64 is not None or request.mock_depth or estimator
        job = GenerateJob(
            request_id=request_id,
            subscriber=uuid.uuid4().hex,
            model=model,
            controlnet=controlnet,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=secrets.randbelow(RANDOM_SEEDS) if request.seed is None else request.seed,
            num_images=request.num_images,
            steps=request.steps or speed.steps,
            guidance_scale=spec.cfg if request.cfg is None else request.cfg,
            # An init image alone provides no depth.
            controlnet_strength=request.controlnet_strength if controlled else 0.0,
            control_guidance_start=request.control_guidance_start,
            control_guidance_end=request.control_guidance_end,
            scheduler=request.scheduler,
            use_karras_sigmas=request.use_karras_sigmas,
            width=request.width or spec.native_size,
            height=request.height or spec.native_size,
            output_format=request.effective_output_format,
            quality=request.quality,
            depth=b"",
            decoder=self._decoder(request, model, speed.decoder),
            enable_deepcache=speed.enable_deepcache if cached is None else cached,
            loras=loras,
            session=owned(request.session, owner),
            owner=owner,
            arrived=arrived,
            deadline=request.deadline_ms and arrived + request.deadline_ms / 1000,
            previews=previews,
            strength=request.strength,
            guidance_start=guidance_start,
            guidance_end=guidance_end,
        )
        if request.strength is not None and request.strength * job.steps < 1:
            warnings.append(
                f"strength {request.strength:g} of {job.steps} steps is under one; one step runs"
            )
        return ResolvedRequest(job, request.era, tuple(warnings), self._digests(job), estimator)

    def model(self, name: str | None) -> str:
        """Return the variant's name; for None, the catalog's default or another available one.

        Raises:
            UnknownName: the variant is not available.
            Unavailable: the variant is still being downloaded.
        """
        self._check_fetched("model", name, self.catalog.models, self.inventory.models)
        return _pick_known("model", name, self.catalog.default_model, self.inventory.models)

    def controlnet(self, name: str | None) -> str:
        """Return the ControlNet's name; for None, the default or another available one.

        Raises:
            UnknownName: the ControlNet is not available.
            Unavailable: the ControlNet is still being downloaded.
        """
        there = self.inventory.controlnets
        self._check_fetched("controlnet", name, self.catalog.controlnets, there)
        return _pick_known("controlnet", name, self.catalog.default_controlnet, there)

    def depth_estimator(self, name: str | None) -> str:
        """Return the estimator's name; for None, the default or another available one.

        Raises:
            InvalidRequest: the catalog has no depth estimators.
            UnknownName: the estimator is not available.
            Unavailable: the estimator is still being downloaded.
        """
        known, there = self.catalog.depth_estimators, self.inventory.depth_estimators
        if not known:
            raise InvalidRequest.for_field(
                "depth_estimator", "this catalog has none; send a depth map (depth_map_b64)"
            )
        self._check_fetched("depth_estimator", name, known, there)
        chosen = name or self.default_depth_estimator or next(iter(known))
        _require("depth_estimator", chosen, there)
        return chosen

    @property
    def default_depth_estimator(self) -> str | None:
        """Estimator for requests that name none; None if none is available."""
        there = self.inventory.depth_estimators
        preferred = self.catalog.default_depth_estimator or ""
        return pick_default(there, preferred) if there else None

    def _estimator(self, request: GenerateRequest) -> str | None:
        has_depth_map = request.depth_map_b64 is not None or request.mock_depth
        if request.image_b64 is None or has_depth_map:
            return None
        if request.strength is not None and request.depth_estimator is None:
            return None
        return self.depth_estimator(request.depth_estimator)

    def _digests(self, job: GenerateJob) -> dict[str, str]:
        there = self.inventory
        used = [there.models[job.model], there.controlnets[job.controlnet]]
        used += [there.loras[lora.name] for lora in job.loras]
        return {entry.name: entry.digest for entry in used}

    def resolve_load(self, wanted: LoadCommand) -> LoadCommand:
        """Return the command with the catalog's defaults for unnamed weights.

        Raises:
            UnknownName: a name is not available.
            Unavailable: weights are still being downloaded.
        """
        return LoadCommand(self.model(wanted.model), self.controlnet(wanted.controlnet))

    def resolve_unload(self, unwanted: LoadCommand) -> LoadCommand:
        """Return the command if it has at least one name, and only available ones.

        Raises:
            InvalidRequest: the command has no name.
            UnknownName: a name is not available.
            Unavailable: weights are still being downloaded.
        """
        if unwanted.model is None and unwanted.controlnet is None:
            raise InvalidRequest.for_field("model", "one of model, controlnet is needed")
        if unwanted.model is not None:
            self.model(unwanted.model)
        if unwanted.controlnet is not None:
            self.controlnet(unwanted.controlnet)
        return unwanted

    def _check_fetched(
        self, what: str, name: str | None, known: Iterable[str], there: Mapping[str, CatalogEntry]
    ) -> None:
        """Check that the named entry is not still being downloaded to the store.

        Raises:
            Unavailable: the download is in progress.
        """
        is_missing = not there if name is None else name in known and name not in there
        if is_missing and self._live_inventory.is_fetching:
            raise Unavailable(
                f"{name or f'the {what}'} is still being fetched; /healthcheck shows the progress",
                code="not_ready",
                retry_after=_FETCH_RETRY_SECONDS,
            )

    def _loras(self, request: GenerateRequest) -> tuple[tuple[LoraWeight, ...], list[str]]:
        """Return the active LoRAs, the request's list or else the era's, and warnings."""
        warnings: list[str] = []
        wanted: dict[str, float] = {}
        if request.era is not None:
            _require("era", request.era, self.catalog.eras)
        if request.loras is not None:
            for choice in request.loras:
                _require("lora", choice.name, self.inventory.loras, field="loras")
                if choice.name in wanted:
                    raise InvalidRequest.for_field("loras", f"{choice.name} is listed twice")
                wanted[choice.name] = choice.strength
        elif request.era is not None:
            wanted = dict(self.catalog.eras[request.era].loras)
            missing = sorted(set(wanted) - set(self.inventory.loras))
            if missing:
                warnings.append(f"era {request.era}: not in the store: {', '.join(missing)}")
            elif not wanted:
                warnings.append(f"era {request.era} has no LoRAs here; only the prompt applies")
            wanted = {name: value for name, value in wanted.items() if name not in missing}
        scaled = ((name, strength * request.lora_strength) for name, strength in wanted.items())
        return tuple(LoraWeight(name, s) for name, s in sorted(scaled) if s != 0), warnings

    def _speed(self, request: GenerateRequest, model: str) -> SpeedSettings:
        spec = self.catalog.models[model]
        if request.speed != "exact" and request.speed not in spec.speeds:
            accepted = ", ".join(map(repr, ("exact", *spec.speeds)))
            raise InvalidRequest.for_field(
                "speed", f"model {model} has no {request.speed!r}; accepted: {accepted}"
            )
        return spec.at_speed(request.speed)

    def _decoder(self, request: GenerateRequest, model: str, default: str) -> str:
        if "tiny_decoder" in self.inventory.models[model].components:
            return request.decoder or default
        if request.decoder == "tiny":
            raise InvalidRequest.for_field(
                "decoder", f"model {model} has no tiny decoder; accepted: 'full'"
            )
        return "full"

    def _check_karras(self, request: GenerateRequest, model: str) -> None:
        if request.use_karras_sigmas is None:
            return
        class_name = self.catalog.models[model].scheduler.class_name
        if request.scheduler != "auto":
            class_name = SCHEDULERS[request.scheduler].class_name
        if not has_karras_sigmas(class_name):
            raise InvalidRequest.for_field(
                "use_karras_sigmas",
                f"scheduler {request.scheduler} has no such setting; leave it out, or choose "
                "euler, dpm_sde, dpm_multi, dpm_single or unipc",
            )


def _pick_known(
    field: str, name: str | None, default: str, there: Mapping[str, CatalogEntry]
) -> str:
    if name is None:
        return pick_default(there, default)
    _require(field, name, there)
    return name


def _require(what: str, name: str, there: Iterable[str], field: str | None = None) -> None:
    names = list(there)
    if name not in names:
        accepted = ", ".join(names) or f"none, for no {what} is in the store"
        raise UnknownName.for_field(
            field or what, f"{name!r} is unknown; accepted: {accepted}", f"unknown_{what}"
        )
