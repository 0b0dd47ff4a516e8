"""Every setting of the service: the only reader of the environment.

Each field is `CHANGEROOM_<NAME>` in the environment; the store's address is also taken from `REDIS_URL`, the
name most platforms give it. Sizes are bytes, times are seconds, limits of 0 mean "no limit" where noted.
"""

from __future__ import annotations

import math
import os
import re
import secrets
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine_build.instruction import MAX_GARMENTS

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


_HOST_NAME = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[a-z0-9_.\[\]:-]+")


class SettingsError(ValueError):
    """A setting that cannot be used; the message is one line naming the variable and what is wrong."""


class Settings(BaseSettings):
    """Configuration of gateway, worker and the store between them."""

    model_config = SettingsConfigDict(env_prefix="CHANGEROOM_", extra="forbid", populate_by_name=True)

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("CHANGEROOM_REDIS_URL", "REDIS_URL"),
        description="redis://, rediss:// or unix:// address of the store",
    )
    blob_url: str = Field(default="", description="file://, s3://, gs://, az:// or memory://; default in data_dir")
    data_dir: Path = Field(default=Path("var"), description="folder for the embedded store, blobs and secrets")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    metrics_port: int = Field(default=0, ge=0, le=65535, description="a worker's /metrics; 0 is off")

    model: str = Field(default="nano", description="nano, a checkpoint folder or a hub id")
    backend: Literal["torch", "triton", "triton-tma", "tensorrt"] = "torch"
    device: str = "auto"
    dtype: str = "auto"
    loras: str = Field(default="", description="LoRA files, comma-separated: FILE or FILE=STRENGTH")
    workers: int = Field(default=1, ge=1, le=64)

    public_url: str | None = Field(
        default=None, description="where clients reach this service, like https://try.example.com; absolute links"
    )

    api_keys_file: Path | None = None
    auth_required: bool | None = Field(default=None, description="default: where there is a key file")
    rate_per_minute: int = Field(default=600, ge=0, description="per key; 0 is unlimited")
    concurrency_per_key: int = Field(default=64, ge=0, description="jobs in flight and uploads per key; 0: any")
    daily_quota: int = Field(
        default=0, ge=0, description="jobs and catalogue uploads per key and UTC day; 0 is unlimited"
    )
    catalogue_garments: int = Field(default=10_000, ge=0, description="garments per key; 0 is unlimited")
    catalogue_bytes: int = Field(default=4 * GIB, ge=0, description="of these garments' pictures; 0 is unlimited")
    stored_bytes_per_key: int = Field(
        default=256 * MIB, ge=0, description="what the records of a key's jobs may take in the store; 0 is unlimited"
    )

    body_limit_bytes: int = Field(default=80 * MIB, ge=KIB)
    image_limit_bytes: int = Field(default=15 * MIB, ge=KIB)
    max_images: int = Field(default=1 + MAX_GARMENTS, ge=2, le=1 + MAX_GARMENTS)
    max_megapixels: float = Field(default=60, gt=0)
    header_timeout_s: float = Field(default=4, gt=0, description="from the first byte, or from connecting")
    body_idle_timeout_s: float = Field(default=4, gt=0, description="a body this far behind 8 kB/s is slow")
    body_pause_s: float = Field(default=20, gt=0, description="a slow body may fall this far behind 8 kB/s")
    max_slow_bodies: int = Field(
        default=64, ge=0, description="bodies that may be slow at one time, a quarter of one address; others are ended"
    )
    keep_alive_s: int = Field(default=10, ge=1, description="a connection between two requests")
    max_connections: int = Field(
        default=2048, ge=1, description="open connections of one gateway; silent ones make room first"
    )
    max_connections_per_address: int = Field(
        default=512, ge=0, description="of one client address (IPv6: one /64) with one gateway; 0 is unlimited"
    )
    allowed_hosts: str = Field(
        default="",
        description="names this service is called by, comma-separated, like shop.example or *.shop.example, beside "
        "localhost, this machine's name and numeric addresses; * is any",
    )
    cors_origins: str = Field(
        default="",
        description="pages of other origins that may call, comma-separated, like https://shop.example; * is any",
    )
    trusted_proxies: str = Field(
        default="private",
        description="networks, comma-separated, not counted by address; private is every address that is not public",
    )

    max_in_flight: int = Field(default=256, ge=1, description="accepted jobs that are not terminal yet")
    max_backlog_s: float = Field(
        default=10, ge=0, description="work waiting longer than this is refused more; 0 is unlimited"
    )
    lease_s: float = Field(default=15, gt=0)
    sweep_s: float = Field(default=2, gt=0)
    max_attempts: int = Field(default=3, ge=1)
    deadline_default_s: float = Field(default=120, gt=0)
    deadline_max_s: float = Field(default=900, gt=0)
    reservation_ttl_s: float = Field(default=60, gt=0, description="an accepted request that never became a job")
    result_ttl_s: int = Field(default=86_400, ge=1)
    input_ttl_s: int = Field(default=3_600, ge=1)
    log_rewrite_s: int = Field(
        default=900, ge=0, description="how often the store rewrites its log, so that deleted things leave it; 0 is off"
    )
    store_memory_bytes: int = Field(
        default=512 * MIB, ge=0, description="what the embedded store may hold before it takes nothing new; 0: no bound"
    )
    garment_ttl_s: int = Field(
        default=180 * 86_400, ge=0, description="a catalogue garment that nobody puts or wears; 0 keeps it"
    )
    disk_reserve_bytes: int = Field(
        default=512 * MIB, ge=0, description="free disk left to accepted jobs; twice as much is closed to the catalogue"
    )
    store_timeout_s: float = Field(default=0.7, gt=0, description="bound of one call to the store")

    webhooks_enabled: bool = False
    webhook_secret: SecretStr | None = None
    webhook_allow_private: bool = Field(
        default=False, description="call receivers at private and loopback addresses, over http too"
    )
    url_secret: SecretStr | None = Field(default=None, description="signs result addresses; made when absent")

    rewriter_url: str | None = Field(default=None, description="an OpenAI-compatible endpoint; off when absent")
    rewriter_model: str | None = None
    rewriter_key: SecretStr | None = None
    rewriter_budget_ms: int = Field(default=800, ge=1)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    otel: bool = False
    engine_stall_s: float = Field(default=180, gt=0, description="a worker's engine silent this long is hung")
    drain_grace_s: float = Field(default=30, ge=0)
    reference_cache_bytes: int = Field(default=GIB, ge=0)
    token_budget: int | None = Field(
        default=None, ge=1, description="tokens of one forward; default: what the device's memory allows"
    )
    graph_bytes: int | None = Field(
        default=None, ge=0, description="GPU memory for CUDA graphs; 0 is none; default: an eighth, at most 16 GiB"
    )
    warm_buckets: str = Field(
        default="", description="sizes made ready at the start, like 768x1024:6*2,1024x1024; default: the model's own"
    )

    @field_validator("redis_url")
    @classmethod
    def _of_a_store(cls, value: str) -> str:
        if urlsplit(value).scheme not in ("redis", "rediss", "unix"):
            raise ValueError("an address of the store begins with redis://, rediss:// or unix://")
        return value

    @field_validator("public_url")
    @classmethod
    def _of_a_site(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if value and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
            raise ValueError("write it like https://try.example.com or https://example.com/fitting")
        return value.rstrip("/") if value else None

    @field_validator("allowed_hosts")
    @classmethod
    def _of_names(cls, value: str) -> str:
        for word in listed(value):
            if not _HOST_NAME.fullmatch(word):
                raise ValueError(f"{word!r} is not a name like shop.example, *.shop.example or *, without a port")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _of_origins(cls, value: str) -> str:
        for word in listed(value):
            if not _ORIGIN.fullmatch(word):
                raise ValueError(f"{word!r} is not an origin like https://shop.example or http://localhost:3000, or *")
        return value

    @property
    def host_names(self) -> list[str]:
        """The names of `allowed_hosts`, lower case."""
        return listed(self.allowed_hosts)

    @property
    def origin_names(self) -> list[str]:
        """The origins of `cors_origins`, lower case."""
        return listed(self.cors_origins)

    @property
    def lora_files(self) -> list[tuple[Path, float]]:
        """The LoRA files and strengths of `loras`. Raises SettingsError for a strength that is not a number."""
        return parse_loras([text.strip() for text in self.loras.split(",") if text.strip()])

    @property
    def blob_address(self) -> str:
        """`blob_url`, or the folder `blobs` of the data folder."""
        return self.blob_url or f"file://{(self.data_dir / 'blobs').absolute()}"

    @property
    def key_ttl_s(self) -> int:
        """How long the key of a job's words is kept at most: as long as the record of a job may live that ended by the
        sweep after its deadline.
        """
        return self.result_ttl_s + math.ceil(self.deadline_max_s + 2 * self.sweep_s) + 5

    @property
    def store_is_local(self) -> bool:
        """Whether the store is a socket or a loopback address: then there are no gateways on other machines."""
        parts = urlsplit(self.redis_url)
        return (
            parts.scheme == "unix"
            or parts.hostname in ("localhost", "::1")
            or (parts.hostname or "").startswith("127.")
        )

    @property
    def keys_required(self) -> bool:
        """`auth_required`, or whether there is a key file."""
        return self.api_keys_file is not None if self.auth_required is None else self.auth_required

    @property
    def listens_beyond_loopback(self) -> bool:
        """Whether others than this machine may reach `host`."""
        return self.host not in ("localhost", "::1") and not self.host.startswith("127.")

    def signing_key(self) -> bytes:
        """The key of signed addresses: `url_secret`, or one kept in the data folder (made once, mode 0600).

        Raises OSError when the data folder cannot be written.
        """
        if self.url_secret is not None:
            return self.url_secret.get_secret_value().encode()
        path = self.data_dir / "url_secret"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".url_secret.{secrets.token_hex(8)}")
        draft.touch(mode=0o600)
        try:
            draft.write_text(secrets.token_hex(32))
            try:
                os.link(draft, path)
            except FileExistsError:
                return path.read_text().encode()
        finally:
            draft.unlink()
        return path.read_text().encode()


def listed(text: str) -> list[str]:
    """The words of a comma-separated setting, lower case."""
    return [word.strip().lower() for word in text.split(",") if word.strip()]


def parse_loras(given: list[str]) -> list[tuple[Path, float]]:
    """`FILE` or `FILE=STRENGTH` each. Raises SettingsError for a strength that is not a number."""
    loras = []
    for text in given:
        name, equals, strength = text.rpartition("=")
        try:
            loras.append((Path(name), float(strength)) if equals else (Path(text), 1.0))
        except ValueError as error:
            raise SettingsError(f"LoRA {text!r} is not FILE=STRENGTH") from error
    return loras


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, with `overrides` on top (None values are left out).

    Raises SettingsError with one line that names the field and what is wrong with it.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    unknown = sorted(set(given) - set(Settings.model_fields))
    if unknown:
        raise SettingsError(f"unknown setting {unknown[0]!r}")
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        said = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"CHANGEROOM_{name.upper().removeprefix('CHANGEROOM_')}: {said}") from None


def without_password(url: str) -> str:
    """The address of a store as it may be shown and logged."""
    before, at, after = url.rpartition("@")
    return f"{before.partition('://')[0]}://***@{after}" if at else url


def let_threads_sleep() -> None:
    """Make OpenMP threads of this process sleep while they wait; call before torch is imported.

    By default they spin, and on a machine with anything else to do a small model gets 50 times slower
    (measured: 0.1 s becomes 26 s with two threads on two busy cores). A choice already made is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
