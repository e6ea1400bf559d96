"""What an operator decides: who may register, how mail goes, how workers work, where files lie."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from headrace.errors import ConfigError

PREFIX = "HEADRACE_"


class Settings(BaseModel):
    """Each is a variable of the environment: `registration` is HEADRACE_REGISTRATION.

    `registration` None means: open when the server is bound to loopback, closed otherwise; who starts
    the server says which. `files_url` None means a folder under the data folder; `files_access` is the
    access to it as JSON, by the sections of a files connection (`{"s3": {"region": …}}`).
    """

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    registration: Literal["open", "closed"] | None = None
    token_hours: int = Field(default=24, ge=1, le=24 * 30)
    session_hours: int = Field(default=24 * 14, ge=1, le=24 * 90)
    password_minimum: int = Field(default=8, ge=0, le=128)
    login_needs_verification: bool = False
    public_url: str = "http://127.0.0.1:8080"
    admin_email: str | None = None
    admin_password: SecretStr | None = None
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    smtp_host: str | None = None
    smtp_port: int = Field(default=587, ge=1, le=65535)
    smtp_user: str | None = None
    smtp_password: SecretStr | None = None
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    smtp_from: str = "headrace@localhost"
    worker_runs: int = Field(default=2, ge=1, le=256)
    lease_seconds: float = Field(default=30, ge=1, le=3600)
    metrics_token: SecretStr | None = None
    disk_reserve_mb: int = Field(default=256, ge=0)
    log_format: Literal["auto", "json", "text"] = "auto"
    ingestion_port: int | None = Field(default=None, ge=0, le=65535)
    obsrv_port: int | None = Field(default=None, ge=0, le=65535)
    obsrv_public_catalogue: bool = True
    obsrv_register_auth: Literal["admin", "none"] = "admin"
    obsrv_builtin_rows: bool = True
    obsrv_strict_status: bool = False
    obsrv_review: bool = False
    files_url: str | None = None
    files_access: SecretStr | None = None
    files_quota_mb: int | None = Field(default=None, ge=0)
    files_retention_days: int = Field(default=30, ge=1)
    files_memory_mb: int = Field(default=512, ge=64)
    files_seconds: int = Field(default=900, ge=1)

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Raises ConfigError that names the variable."""
        raw: dict[str, object] = {
            name: environ[key] for name in cls.model_fields if (key := PREFIX + name.upper()) in environ
        }
        if "allowed_networks" in raw:
            raw["allowed_networks"] = str(raw["allowed_networks"]).replace(",", " ").split()
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = PREFIX + str(first["loc"][0]).upper()
            raise ConfigError(
                "settings.invalid", f"{name}: {first['msg']}", field=name, remedy="Correct the variable."
            ) from None

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    @property
    def token_life(self) -> timedelta:
        return timedelta(hours=self.token_hours)

    @property
    def session_life(self) -> timedelta:
        return timedelta(hours=self.session_hours)
