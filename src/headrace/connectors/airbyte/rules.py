"""What the operator of this installation decides about foreign programs: limits, user, ways out."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from headrace.errors import ConfigError

_PREFIX = "HEADRACE_CONNECTORS_"
_SIZES = ("memory", "address", "file", "disk", "line", "batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes, counts and seconds. `memory` and `processes` bound all processes of one call together, `disk`
    what lies in its folder; `address` is the address space of one process, `silence` how long a read may
    say nothing, `waiting` the same while it is held up by a rate limit.
    """

    memory: int = 4 << 30
    address: int = 4 << 30
    file: int = 2 << 30
    disk: int = 2 << 30
    files: int = 1024
    processes: int = 256
    line: int = 64 << 20
    batch: int = 16 << 20
    log_lines: int = 1000  # a second
    spec: float = 60.0
    check: float = 120.0
    discover: float = 600.0
    silence: float = 600.0
    waiting: float = 3600.0
    grace: float = 10.0

    def for_guard(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k in _GUARDED}


_GUARDED = ("memory", "address", "file", "disk", "files", "processes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`user` is who runs connectors, None whoever we are; `pythons` are interpreters, the preferred first.

    `proxy` and `ca_bundle` are given to connectors, `index` is where packages come from.
    """

    user: pwd.struct_passwd | None = None
    limits: Limits = field(default_factory=Limits)
    proxy: str | None = None
    ca_bundle: str | None = None
    index: str | None = field(default=None, repr=False)
    pythons: tuple[str, ...] = ()

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Raises ConfigError that names the variable."""
        raw = {
            k.removeprefix(_PREFIX).lower(): v
            for k, v in (os.environ if environ is None else environ).items()
            if k.startswith(_PREFIX) and v
        }
        pythons = raw.get("pythons", "").replace(",", " ").split()
        return cls(
            user=_user(raw.get("user")),
            limits=_limits(raw.get("limits", "")),
            proxy=raw.get("proxy"),
            ca_bundle=raw.get("ca_bundle") or os.environ.get("SSL_CERT_FILE"),
            index=raw.get("index"),
            pythons=tuple(pythons) or tuple(_found()),
        )


def _user(name: str | None) -> pwd.struct_passwd | None:
    if name is None:
        return None
    try:
        found = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(
            "airbyte.no_user",
            f"there is no user {name!r} to run connectors as",
            field="HEADRACE_CONNECTORS_USER",
            remedy="Name a user of this machine that owns nothing else.",
        ) from None
    if os.geteuid() not in (0, found.pw_uid):
        raise ConfigError(
            "airbyte.may_not_switch",
            f"only root can run connectors as {name!r}",
            field="HEADRACE_CONNECTORS_USER",
            remedy="Leave the variable out, or start Headrace as root.",
        )
    return found if os.geteuid() == 0 and found.pw_uid else None


def _limits(text: str) -> Limits:
    """`memory=2GiB processes=64 check=30`: those that are left out keep their defaults."""
    given: dict[str, Any] = {}
    for part in text.replace(",", " ").split():
        name, _, value = part.partition("=")
        try:
            if name not in Limits.__dataclass_fields__:
                raise ValueError
            given[name] = _bytes(value) if name in _SIZES else type(getattr(Limits(), name))(float(value))
            if given[name] <= 0:
                raise ValueError
        except ValueError:
            raise ConfigError(
                "airbyte.bad_limit",
                f"{part!r} is not a limit",
                field="HEADRACE_CONNECTORS_LIMITS",
                remedy=f"Write name=number, spaces between: {', '.join(Limits.__dataclass_fields__)}.",
            ) from None
    return Limits(**given)


def _bytes(text: str) -> int:
    for unit, factor in (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)):
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(text)


def _found() -> Iterator[str]:
    """The interpreters of this machine, the newest first; ours is one of them."""
    ours = sys.version_info[:2]
    seen = False
    for minor in (13, 12, 11, 10):
        if not seen and ours >= (3, minor):
            seen = True
            yield sys.executable
        if ours != (3, minor) and (path := shutil.which(f"python3.{minor}")):
            yield path
    if not seen:
        yield sys.executable


def memory_folder() -> Path | None:
    """Where files never reach a disk, if there is such a place."""
    place = Path("/dev/shm")
    return place if place.is_dir() and os.access(place, os.W_OK | os.X_OK) else None
