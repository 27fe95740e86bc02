"""Settings of the service, read from environment variables."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class SettingsError(ValueError):
    """Invalid setting; the message has its name and the accepted values."""


class Settings(BaseSettings):
    """Settings of the service, each an environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(
        extra="ignore", frozen=True, env_ignore_empty=True, protected_namespaces=()
    )

    model_server_host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    model_server_port: int = Field(3000, ge=1, le=65535, description="port to listen on")
    catalog: str = Field("demo", description="`demo`, `experimance`, or the path of a TOML file")
    preload_model: str | None = Field(
        None, description="variant to load at start; unset: the catalog's default"
    )
    api_token: SecretStr | None = Field(
        None, description="comma-separated bearer tokens; every route but health requires one"
    )
    api_token_file: Path | None = Field(
        None, description="file with further tokens, one per line, reloaded when it changes"
    )
    admin_token: SecretStr | None = Field(
        None, description="bearer tokens for /preload, /unload and /cancel of all requests"
    )
    admin_token_file: Path | None = Field(
        None, description="file with further ones, as API_TOKEN_FILE"
    )
    allowed_hosts: str | None = Field(
        None,
        description="comma-separated host names of the service beside `localhost`; `*`: any",
    )
    cors_origins: str | None = Field(
        None,
        description="comma-separated origins whose pages may use the service, e.g. "
        "`https://example.org`; `*`: any",
    )
    fetch_missing: bool = Field(
        False, description="at start, import weights that are not in the model store"
    )
    trust_first_use: bool = Field(
        False, description="FETCH_MISSING accepts files that neither a lock file nor a commit pins"
    )
    models_dir: Path | None = Field(
        None, description="folder for downloads until they are in the model store"
    )
    google_storage_base: str = Field(
        "https://storage.googleapis.com/experimance_models/",
        pattern=r"^https?://[^/]+/[^/]+/?$",
        description="public URL of the bucket; https: sources must be below it",
    )
    max_queue: int = Field(64, ge=1, le=10_000, description="maximum number of waiting requests")
    max_queue_seconds: float = Field(
        60.0, gt=0, description="reject requests when the backlog exceeds this many seconds"
    )
    vram_budget_gb: float | None = Field(
        None,
        gt=0,
        description="limit for weights on the device, in 1e9 bytes; unset: measured on a GPU",
    )
    attention_backend: Literal["sdpa", "xformers"] = Field(
        "sdpa", description="attention implementation; xformers only if it is usable"
    )
    compile: Literal["off", "regional"] = Field(
        "off", description="compilation of the networks' repeated blocks"
    )
    fp16_accumulation: Literal["off", "on", "auto"] = Field(
        "auto",
        description="sums of matrix products in float16, twice as fast on GeForce cards; `auto`: "
        "where a measurement at start shows a gain and a relative error of at most 0.01",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="minimum severity of log lines"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="plain text, or one JSON object per line"
    )
    otel_traces_exporter: Literal["otlp", "console", "none"] | None = Field(
        None, description="exporter of spans; unset: otlp if an endpoint is set, else none"
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None, pattern="^https?://", description="URL of an OTLP/HTTP collector"
    )
    otel_exporter_otlp_protocol: Literal["http/protobuf"] = Field(
        "http/protobuf", description="protocol of the exporter; the only one"
    )
    otel_service_name: str = Field(
        "experimance-controlnet", min_length=1, description="name of the service in traces"
    )

    @property
    def traces_exporter(self) -> Literal["otlp", "console"] | None:
        """Exporter of spans; None disables tracing."""
        if self.otel_traces_exporter == "none":
            return None
        if self.otel_traces_exporter is None:
            return "otlp" if self.otel_exporter_otlp_endpoint else None
        return self.otel_traces_exporter


def load_settings() -> Settings:
    """Read and validate the environment.

    Raises:
        SettingsError: a variable is invalid; the message names all of them.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"{str(item['loc'][0]).upper()}: {item['msg']} (got {item['input']!r})"
            for item in error.errors(include_url=False)
        )
        raise SettingsError(f"bad settings: {problems}") from None
