"""From a request to a job: names checked against what is there, defaults filled in."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from api.access import owned
from api.errors import InvalidRequest, Unavailable, UnknownName
from api.requests import GenerateRequest
from models.catalog import Catalog
from models.shelf import Shelf
from models.store import Entry, Inventory, default_name
from runners.messages import LoadOrder, LoraWeight, PaintJob

_FETCH_RETRY_SECONDS = 10.0
_WITHOUT_KARRAS = {"euler_a", "ddim", "lcm"}
_CLASSES_WITHOUT_KARRAS = {"EulerAncestralDiscreteScheduler", "DDIMScheduler", "LCMScheduler"}


@dataclass(frozen=True, slots=True)
class Resolved:
    """A job without its pictures, and what to tell the caller beside the painted one.

    `digests` are those of the weights, by the names that the job has for them. `depth_estimator`
    is to estimate the depth map, None where there is one or none is wanted.
    """

    job: PaintJob
    era: str | None
    warnings: tuple[str, ...]
    digests: Mapping[str, str]
    depth_estimator: str | None = None


class Resolver:
    """Resolves requests against a catalog and what of it is in the store."""

    def __init__(self, catalog: Catalog, shelf: Shelf) -> None:
        self.catalog = catalog
        self._shelf = shelf

    @property
    def inventory(self) -> Inventory:
        """What of the catalog is in the store."""
        return self._shelf.inventory

    def resolve(
        self,
        request: GenerateRequest,
        request_id: str,
        arrived: float,
        previews: bool,
        owner: str = "",
    ) -> Resolved:
        """Make the job.

        Args:
            request: valid by itself.
            request_id: the request's own, or one made for it.
            arrived: on `time.monotonic()`'s clock, for the deadline.
            previews: whether the caller wants to see pictures on the way.

        Raises:
            InvalidRequest: a field that this version does not offer, or that does not fit.
            UnknownName: a model, ControlNet, era or LoRA that does not exist here.
            Unavailable: one that is still being fetched.
        """
        model = self.model(request.model)
        controlnet = self.controlnet(request.controlnet)
        spec = self.catalog.models[model]
        self._check_karras(request, model)
        loras, warnings = self._loras(request)
        estimator = self._estimator(request)
        controlled = request.depth_map_b64 is not None or request.mock_depth or estimator
        job = PaintJob(
            request_id=request_id,
            subscriber=uuid.uuid4().hex,
            model=model,
            controlnet=controlnet,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=secrets.randbelow(2**63) if request.seed is None else request.seed,
            num_images=request.num_images,
            steps=request.steps or spec.steps,
            guidance_scale=spec.cfg if request.cfg is None else request.cfg,
            # A picture alone has no depth to follow.
            controlnet_strength=request.controlnet_strength if controlled else 0.0,
            control_guidance_start=request.control_guidance_start,
            control_guidance_end=request.control_guidance_end,
            scheduler=request.scheduler,
            use_karras_sigmas=request.use_karras_sigmas,
            width=request.width or spec.native_size,
            height=request.height or spec.native_size,
            output_format=request.picture_format,
            quality=request.quality,
            depth=b"",
            decoder=self._decoder(request, model),
            enable_deepcache=request.enable_deepcache,
            loras=loras,
            session=owned(request.session, owner),
            owner=owner,
            arrived=arrived,
            deadline=request.deadline_ms and arrived + request.deadline_ms / 1000,
            previews=previews,
            strength=request.strength,
        )
        if request.strength is not None and request.strength * job.steps < 1:
            warnings.append(
                f"strength {request.strength:g} of {job.steps} steps is less than one; one is done"
            )
        return Resolved(job, request.era, tuple(warnings), self._digests(job), estimator)

    def model(self, name: str | None) -> str:
        """The variant's name, the catalog's default for None (or any that is there)."""
        self._check_fetched("model", name, self.catalog.models, self.inventory.models)
        return _known("model", name, self.catalog.default_model, self.inventory.models)

    def controlnet(self, name: str | None) -> str:
        """The ControlNet's name, likewise."""
        there = self.inventory.controlnets
        self._check_fetched("controlnet", name, self.catalog.controlnets, there)
        return _known("controlnet", name, self.catalog.default_controlnet, there)

    def depth_estimator(self, name: str | None) -> str:
        """The depth estimator's name, the catalog's default for None (or any that is there)."""
        known, there = self.catalog.depth_estimators, self.inventory.depth_estimators
        if not known:
            raise InvalidRequest.field(
                "depth_estimator", "this catalog has none; send a depth map (depth_map_b64)"
            )
        self._check_fetched("depth_estimator", name, known, there)
        chosen = name or self.default_depth_estimator or next(iter(known))
        _require("depth_estimator", chosen, there)
        return chosen

    @property
    def default_depth_estimator(self) -> str | None:
        """The estimator for photographs whose request names none; None where none is there."""
        there = self.inventory.depth_estimators
        preferred = self.catalog.default_depth_estimator or ""
        return default_name(there, preferred) if there else None

    def _estimator(self, request: GenerateRequest) -> str | None:
        mapped = request.depth_map_b64 is not None or request.mock_depth
        if request.image_b64 is None or mapped:
            return None
        if request.strength is not None and request.depth_estimator is None:
            return None
        return self.depth_estimator(request.depth_estimator)

    def _digests(self, job: PaintJob) -> dict[str, str]:
        there = self.inventory
        used = [there.models[job.model], there.controlnets[job.controlnet]]
        used += [there.loras[lora.name] for lora in job.loras]
        return {entry.name: entry.digest for entry in used}

    def load_order(self, wanted: LoadOrder) -> LoadOrder:
        """What to load, with the catalog's defaults for what is not named."""
        return LoadOrder(self.model(wanted.model), self.controlnet(wanted.controlnet))

    def unload_order(self, unwanted: LoadOrder) -> LoadOrder:
        """What to unload: names that exist, at least one."""
        if unwanted.model is None and unwanted.controlnet is None:
            raise InvalidRequest.field("model", "one of model, controlnet is needed")
        if unwanted.model is not None:
            self.model(unwanted.model)
        if unwanted.controlnet is not None:
            self.controlnet(unwanted.controlnet)
        return unwanted

    def _check_fetched(
        self, what: str, name: str | None, known: Iterable[str], there: Mapping[str, Entry]
    ) -> None:
        """Refuse for the moment what is on its way into the store."""
        awaited = not there if name is None else name in known and name not in there
        if awaited and self._shelf.growing:
            raise Unavailable(
                f"{name or f'the {what}'} is still being fetched; /healthcheck tells how far it is",
                code="not_ready",
                retry_after=_FETCH_RETRY_SECONDS,
            )

    def _loras(self, request: GenerateRequest) -> tuple[tuple[LoraWeight, ...], list[str]]:
        """The LoRAs that act: the request's own if it gave any list, else the era's."""
        warnings: list[str] = []
        wanted: dict[str, float] = {}
        if request.era is not None:
            _require("era", request.era, self.catalog.eras)
        if request.loras is not None:
            for choice in request.loras:
                _require("lora", choice.name, self.inventory.loras, field="loras")
                if choice.name in wanted:
                    raise InvalidRequest.field("loras", f"{choice.name} is given twice")
                wanted[choice.name] = choice.strength
        elif request.era is not None:
            wanted = dict(self.catalog.eras[request.era].loras)
            missing = sorted(set(wanted) - set(self.inventory.loras))
            if missing:
                warnings.append(
                    f"era {request.era}: without {', '.join(missing)}, not in the store"
                )
            elif not wanted:
                warnings.append(f"era {request.era} has no LoRAs here; the prompt alone paints it")
            wanted = {name: value for name, value in wanted.items() if name not in missing}
        scaled = ((name, strength * request.lora_strength) for name, strength in wanted.items())
        return tuple(LoraWeight(name, s) for name, s in sorted(scaled) if s > 0), warnings

    def _decoder(self, request: GenerateRequest, model: str) -> str:
        there = self.inventory.models[model].components
        if request.decoder == "tiny" and "tiny_decoder" not in there:
            raise InvalidRequest.field(
                "decoder", f"model {model} has no tiny decoder; accepted: 'full'"
            )
        return request.decoder

    def _check_karras(self, request: GenerateRequest, model: str) -> None:
        if request.use_karras_sigmas is None:
            return
        own = self.catalog.models[model].scheduler.class_name
        automatic = request.scheduler == "auto"
        if request.scheduler in _WITHOUT_KARRAS or (automatic and own in _CLASSES_WITHOUT_KARRAS):
            raise InvalidRequest.field(
                "use_karras_sigmas",
                f"scheduler {request.scheduler} has no such setting; leave it out, or choose "
                "euler, dpm_sde, dpm_multi, dpm_single or unipc",
            )


def _known(field: str, name: str | None, default: str, there: Mapping[str, Entry]) -> str:
    if name is None:
        return default_name(there, default)
    _require(field, name, there)
    return name


def _require(what: str, name: str, there: Iterable[str], field: str | None = None) -> None:
    names = list(there)
    if name not in names:
        listed = ", ".join(names) or f"none, for no {what} is in the store"
        raise UnknownName.field(
            field or what, f"{name!r} is unknown; accepted: {listed}", f"unknown_{what}"
        )
