"""The catalog: which variants, ControlNets, LoRAs and eras exist, and their defaults."""

from models.catalog.schema import (
    SHIPPED,
    Catalog,
    CatalogError,
    ControlNetSpec,
    DepthEstimatorSpec,
    EraSpec,
    LoraSpec,
    SchedulerSpec,
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
    "VariantSpec",
    "load_catalog",
]
