"""Catalog of variants, ControlNets, LoRAs, depth estimators and eras, with their defaults."""

from models.catalog.scheduler import SchedulerSpec
from models.catalog.schema import (
    SHIPPED,
    Catalog,
    CatalogError,
    ControlNetSpec,
    DepthEstimatorSpec,
    EraSpec,
    LoraSpec,
    SpeedSettings,
    SpeedSpec,
    VariantSpec,
    load_catalog,
)

__all__ = [
    "SHIPPED",
    "Catalog",
    "CatalogError",
    "ControlNetSpec",
    "DepthEstimatorSpec",
    "EraSpec",
    "LoraSpec",
    "SchedulerSpec",
    "SpeedSettings",
    "SpeedSpec",
    "VariantSpec",
    "load_catalog",
]
