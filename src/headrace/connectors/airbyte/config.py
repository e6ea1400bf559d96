"""Makes the settings of a connector out of the specification that it gives of itself."""

from __future__ import annotations

import functools
import json
import operator
import re
import warnings
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Optional

from pydantic import AfterValidator, BaseModel, Field, create_model

from headrace.connector import Config, Secret, setting
from headrace.connectors.airbyte.installed import Installed
from headrace.errors import ConfigError

_SCALARS: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool}
_UNUSABLE = re.compile(r"_.*|model_config|schemes|installed")


class AirbyteConfig(Config):
    """The settings of one connector that is installed."""

    installed: ClassVar[Installed]

    def document(self) -> dict[str, Any]:
        """The settings as the connector wants them, secrets in the open: never to be shown."""
        document: dict[str, Any] = _opened(self, self.installed.specification)
        return document

    def secret_values(self) -> list[Any]:
        """What must be kept off every screen."""
        return list(_secrets(self))


def config_of(installed: Installed) -> type[AirbyteConfig]:
    """The class of the connector's settings. Raises ConfigError for a specification that makes no sense."""
    kind = _model("Settings", installed.specification, AirbyteConfig)
    kind.installed = installed  # type: ignore[attr-defined]
    return kind  # type: ignore[return-value]


def _model(name: str, schema: Mapping[str, Any], base: type[BaseModel]) -> type[BaseModel]:
    required = set(schema.get("required") or ())
    fields: dict[str, Any] = {}
    for member, inner in (schema.get("properties") or {}).items():
        if _UNUSABLE.fullmatch(member) or not isinstance(inner, Mapping):
            raise ConfigError(
                "airbyte.bad_specification",
                f"the connector has a setting {member!r}, which can't be one here",
                remedy="Ask those who made the connector; another version may do.",
            )
        fields[member] = _field(member, inner, needed=member in required)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a setting may be called `schema` or `json`
        made: type[BaseModel] = create_model(name, __base__=base, **fields)
    return made


def _field(member: str, schema: Mapping[str, Any], *, needed: bool) -> tuple[Any, Any]:
    default = schema.get("const", schema.get("default"))
    kind = _type(member, schema)
    teller = _teller(kind, schema)
    constraints: dict[str, Any] = {"discriminator": teller} if teller else {}
    if default is None and not needed:
        kind = Optional[kind]  # noqa: UP045 - made at run time
    about = " ".join(str(schema.get("description") or schema.get("title") or member).split())
    about = re.sub(r"<[^>]*>", "", about).rstrip(".") + "."
    return kind, setting(
        about,
        default=... if needed and default is None else _default(kind, default),
        examples=[e for e in schema.get("examples") or () if not isinstance(e, dict | list)] or None
        if isinstance(schema.get("examples"), list)
        else None,
        title=str(schema.get("title") or member),
        **constraints,
    )


def _default(kind: Any, default: Any) -> Any:
    if kind is Secret and default is not None:
        return Secret(str(default))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_validate(default)
    return default


def _type(member: str, schema: Mapping[str, Any]) -> Any:
    types = _types(schema)
    if schema.get("airbyte_secret"):
        return Secret
    if "const" in schema:
        return Literal.__getitem__(schema["const"])
    if schema.get("enum") and all(isinstance(choice, str | int | bool) for choice in schema["enum"]):
        return Literal.__getitem__(tuple(schema["enum"]))
    if choices := schema.get("oneOf") or schema.get("anyOf"):
        return _choice(member, schema, choices)
    if types == ["object"] and schema.get("properties"):
        return _model(member, schema, _Group)
    if types == ["array"]:
        items = schema.get("items") or {}
        if _holds_secret(items):
            return Secret  # the whole list, as JSON: it is sealed as one
        inner = _types(items) if isinstance(items, Mapping) else []
        plain = len(inner) == 1 and inner[0] in _SCALARS
        return list.__class_getitem__(_SCALARS[inner[0]] if plain else Any)
    if types == ["object"]:
        return Secret if _holds_secret(schema) else dict[str, Any]
    if len(types) == 1 and types[0] in _SCALARS:
        return _bounded(_SCALARS[types[0]], schema)
    return Any


class _Group(Config):
    """Settings that belong together."""


def _choice(member: str, schema: Mapping[str, Any], choices: Sequence[Any]) -> Any:
    """One of several groups."""
    shared = dict(schema.get("properties") or {})
    objects = [c for c in choices if isinstance(c, Mapping) and (c.get("properties") or shared)]
    if len(objects) != len(choices):
        return Secret if _holds_secret(schema) else Any
    models = [
        _model(
            f"{member}_{at}",
            {
                "properties": shared | (c.get("properties") or {}),
                "required": [*(schema.get("required") or ()), *(c.get("required") or ())],
            },
            _Group,
        )
        for at, c in enumerate(objects)
    ]
    if len(models) == 1:
        return models[0]
    return functools.reduce(operator.or_, models)


def _teller(kind: Any, schema: Mapping[str, Any]) -> str | None:
    """The member whose constant tells the groups of a choice apart."""
    choices = list(schema.get("oneOf") or schema.get("anyOf") or ())
    if not isinstance(kind, UnionType) or len(choices) < 2:
        return None
    for name in choices[0].get("properties") or {}:
        values = [_constant((c.get("properties") or {}).get(name)) for c in choices]
        if None not in values and len(set(values)) == len(values):
            return str(name)
    return None


def _constant(schema: Any) -> str | None:
    if not isinstance(schema, Mapping):
        return None
    choices = list(schema.get("enum") or ())
    value = schema.get("const", choices[0] if len(choices) == 1 else None)
    return value if isinstance(value, str) else None


def _bounded(kind: Any, schema: Mapping[str, Any]) -> Any:
    low, high, pattern = schema.get("minimum"), schema.get("maximum"), schema.get("pattern")
    if kind in (int, float) and (low is not None or high is not None):
        return Annotated[kind, Field(ge=low, le=high)]
    if kind is str and isinstance(pattern, str):
        try:
            expression = re.compile(pattern)
        except re.error:
            return kind  # of another dialect: the connector itself will say

        def matches(text: str) -> str:
            if text and not expression.search(text):
                raise ValueError(f"it should look like {schema.get('pattern_descriptor') or pattern}")
            return text

        return Annotated[str, AfterValidator(matches)]
    return kind


def _types(schema: Mapping[str, Any]) -> list[str]:
    types = schema.get("type")
    found = [t for t in (types if isinstance(types, list) else [types]) if t and t != "null"]
    return found or (["object"] if "properties" in schema else [])


def _holds_secret(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return bool(schema.get("airbyte_secret") is True) or any(map(_holds_secret, schema.values()))
    return isinstance(schema, list) and any(map(_holds_secret, schema))


def _opened(value: Any, schema: Any) -> Any:
    """A setting as plain JSON; text in a secret that is no string is JSON itself."""
    if isinstance(value, Secret):
        text = value.get_secret_value()
        if isinstance(schema, Mapping) and _types(schema) not in ([], ["string"]):
            try:
                return json.loads(text)
            except ValueError:
                raise ConfigError(
                    "airbyte.secret_not_json",
                    "a secret setting that is no text must be given as JSON",
                    remedy="Write the value as JSON, in quotes.",
                ) from None
        return text
    if isinstance(value, BaseModel):
        members = {name: getattr(value, name) for name in type(value).model_fields}
        return {k: _opened(v, _member(schema, k)) for k, v in members.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_opened(inner, {}) for inner in value]
    return value


def _member(schema: Any, name: str) -> Any:
    """The schema of a member, in a group or in one of its choices."""
    if not isinstance(schema, Mapping):
        return {}
    for group in (schema, *(schema.get("oneOf") or schema.get("anyOf") or ())):
        if isinstance(group, Mapping) and name in (group.get("properties") or {}):
            return group["properties"][name]
    return {}


def _secrets(value: Any) -> Any:
    if isinstance(value, Secret):
        text = value.get_secret_value()
        try:
            found = json.loads(text)
        except ValueError:
            found = text
        yield from (text, found)
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
