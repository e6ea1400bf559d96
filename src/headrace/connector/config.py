"""A setting is declared once; validation, forms, docs and the hiding of secrets follow from it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from headrace.errors import ConfigError

Secret = SecretStr
"""Text that never shows itself; `secret.get_secret_value()` where the driver needs it."""

HIDDEN = "********"
"""What a read shows in place of a secret; sent back, it means: keep the one you have."""


def setting(
    help: str,  # the user's word for it
    *,
    default: Any = ...,
    advanced: bool = False,
    examples: list[Any] | None = None,
    **constraints: Any,
) -> Any:
    """Declare one setting. `help` is a sentence; `constraints` are pydantic's (`ge`, `pattern`, …).

    A secret is a setting of type `Secret`.
    """
    return Field(
        default,
        description=help,
        examples=examples,
        json_schema_extra={"advanced": True} if advanced else None,
        **constraints,
    )


class Config(BaseModel):
    """The settings of a connector. Only declared keys are accepted.

    `schemes` are the URL schemes that name this connector on a command line; `from_url` turns such a
    URL into raw settings for `parse`.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=False,
    )
    schemes: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_url(cls, url: str) -> dict[str, Any]:
        """Raw settings from a one-line address. Raises ConfigError."""
        raise ConfigError(
            "config.no_url",
            "this connector has no one-line address",
            remedy="Describe the connection in headrace.yaml instead.",
        )

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """The settings, validated. Raises ConfigError that names the setting and what to do."""
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as error:
            raise _explain(cls, error) from None

    @classmethod
    def secret_fields(cls) -> frozenset[str]:
        """Dotted paths of the settings that are secrets."""
        return frozenset(_secret_paths(cls))


ConfigT = TypeVar("ConfigT", bound=Config)


def _models(info: FieldInfo) -> list[type[BaseModel]]:
    args = getattr(info.annotation, "__args__", None) or (info.annotation,)
    return [a for a in args if isinstance(a, type) and issubclass(a, BaseModel)]


def _secret_paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    paths = []
    for name, info in model.model_fields.items():
        args = getattr(info.annotation, "__args__", None) or (info.annotation,)
        if any(a is SecretStr for a in args):
            paths.append(prefix + name)
        for inner in _models(info):
            paths += _secret_paths(inner, f"{prefix}{name}.")
    return paths


def _known_names(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The settings that could stand where `path` points (its last part is the unknown name)."""
    for part in path[:-1]:
        info = model.model_fields.get(str(part))
        inner = _models(info) if info else []
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _plain(model: type[BaseModel], path: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The path without what only tells which of several groups was taken."""
    plain: list[int | str] = []
    groups: list[type[BaseModel]] = [model]
    chosen = False
    for part in path:
        if chosen:
            chosen = False
            continue
        plain.append(part)
        info = next((g.model_fields[str(part)] for g in groups if part in g.model_fields), None)
        groups = _models(info) if info else []
        chosen = len(groups) > 1
    return tuple(plain)


def _explain(model: type[BaseModel], error: ValidationError) -> ConfigError:
    found = error.errors(include_url=False, include_input=False)
    # a setting that is misspelled is the cause of one that is missing
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    path = _plain(model, first["loc"])
    name = ".".join(
        str(part) for part in path if not isinstance(part, str) or part.isidentifier() or "." in part
    )
    if first["type"] == "extra_forbidden":
        known = _known_names(model, path)
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        remedy = f"Did you mean {near[0]!r}?" if near else f"The settings here are: {', '.join(known)}."
        return ConfigError("config.unknown_setting", f"unknown setting {name!r}", field=name, remedy=remedy)
    info = model.model_fields.get(str(path[0])) if path else None
    help = info.description if info else None
    if first["type"] == "missing":
        return ConfigError(
            "config.missing_setting", f"the setting {name!r} is missing", field=name, remedy=help
        )
    reason = first["msg"].removeprefix("Value error, ")
    return ConfigError(
        "config.bad_setting",
        f"{name or 'settings'}: {reason[0].lower()}{reason[1:]}",
        field=name or None,
        remedy=help,
    )
