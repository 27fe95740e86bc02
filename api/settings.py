"""The one object that reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class SettingsError(ValueError):
    """A setting whose value is not accepted; the message has its name and what is."""


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
        None, description="bearer tokens, by commas, one asked of every route but health"
    )
    api_token_file: Path | None = Field(
        None, description="further ones, one a line, read again when the file changes"
    )
    admin_token: SecretStr | None = Field(
        None, description="bearer tokens asked of /preload, /unload and /cancel of everything"
    )
    admin_token_file: Path | None = Field(None, description="further ones, as for API_TOKEN_FILE")
    allowed_hosts: str | None = Field(
        None,
        description="names by which the service is known beside `localhost`, by commas; `*`: any",
    )
    cors_origins: str | None = Field(
        None,
        description="sites whose pages may use the service, by commas, like `https://example.org`; "
        "`*`: any",
    )
    fetch_missing: bool = Field(
        False, description="import weights that are not in the model store at start"
    )
    trust_first_use: bool = Field(
        False, description="FETCH_MISSING takes files that neither lock file nor commit pins"
    )
    models_dir: Path | None = Field(
        None, description="where downloads lie until they are in the model store"
    )
    google_storage_base: str = Field(
        "https://storage.googleapis.com/experimance_models/",
        pattern=r"^https?://[^/]+/[^/]+/?$",
        description="public form of the bucket, under which https: sources must lie",
    )
    max_queue: int = Field(64, ge=1, le=10_000, description="requests that may wait at once")
    max_queue_seconds: float = Field(
        60.0, gt=0, description="estimated seconds of work ahead beyond which none is accepted"
    )
    vram_budget_gb: float | None = Field(
        None, gt=0, description="bytes of weights on the device, in 1e9; unset: measured on a GPU"
    )
    attention_backend: Literal["sdpa", "xformers"] = Field(
        "sdpa", description="attention implementation; xformers only where it runs"
    )
    compile: Literal["off", "regional"] = Field(
        "off", description="compilation of the networks' repeated blocks"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="least severe lines that are logged"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="lines for people, or a JSON object each"
    )
    otel_traces_exporter: Literal["otlp", "console", "none"] | None = Field(
        None, description="where spans go; unset: otlp if an endpoint is set, else nowhere"
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None, pattern="^https?://", description="address of an OTLP/HTTP collector"
    )
    otel_exporter_otlp_protocol: Literal["http/protobuf"] = Field(
        "http/protobuf", description="how spans are sent; the only one"
    )
    otel_service_name: str = Field(
        "experimance-controlnet", min_length=1, description="how traces call the service"
    )

    @property
    def traces_exporter(self) -> Literal["otlp", "console"] | None:
        """Where spans go; None: tracing is off."""
        if self.otel_traces_exporter == "none":
            return None
        if self.otel_traces_exporter is None:
            return "otlp" if self.otel_exporter_otlp_endpoint else None
        return self.otel_traces_exporter


def load_settings() -> Settings:
    """Read and validate the environment.

    Raises:
        SettingsError: names each bad variable and what it accepts.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"{str(item['loc'][0]).upper()}: {item['msg']} (got {item['input']!r})"
            for item in error.errors(include_url=False)
        )
        raise SettingsError(f"bad settings: {problems}") from None
