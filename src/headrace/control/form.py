"""The forms of packages, of two generations, in one shape: to show, and to check what was filled in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import StringConstraints, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from headrace.errors import ConfigError

Path = tuple[str, ...]
Condition = tuple[Path, tuple[Any, ...]]

_NONE: frozenset[str] = frozenset()

CONNECTOR, OPERATIONS = "connector_config", "operations_config"

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FormField:
    """One value to fill in; `path` starts with the section.

    A `fixed` one keeps its default. It is there while each of the paths in `when` has one of the values
    beside it.
    """

    path: Path
    type: str
    title: str = ""
    help: str = ""
    default: Any = None
    choices: tuple[Any, ...] = ()
    pattern: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    order: float = 0
    required: bool = False
    secret: bool = False
    fixed: bool = False
    hidden: bool = False
    when: tuple[Condition, ...] = ()

    @property
    def name(self) -> str:
        return ".".join(self.path)


@dataclass(frozen=True, slots=True)
class Form:
    """`warnings` say what of the original could not be used."""

    fields: tuple[FormField, ...]
    warnings: tuple[str, ...] = ()

    def check(self, values: Mapping[str, Any]) -> None:
        """Return when the values, by section, fill the form in.

        Raises ConfigError that names the member: `form.unknown`, `form.missing`, `form.invalid`.
        """
        given = dict(_leaves(values, {each.path for each in self.fields}, ()))
        defaults = {each.path: each.default for each in self.fields if each.default is not None}
        full = defaults | given
        shown = {each.path: each for each in self.fields if _applies(each, full)}
        for path in given:
            if path not in shown:
                name = ".".join(path)
                raise ConfigError(
                    "form.unknown", f"{name} is no member here", field=name, remedy="Leave it out."
                )
        for path, each in shown.items():
            if full.get(path) is not None:
                _check(each, full[path])
            elif each.required:
                raise ConfigError(
                    "form.missing", f"{each.name} is missing", field=each.name, remedy="Fill it in."
                )

    def secrets(self) -> frozenset[Path]:
        return frozenset(each.path for each in self.fields if each.secret)


def read_form(ui_spec: Mapping[str, Any]) -> Form:
    """The form of a ui-config of either generation."""
    warnings: list[str] = []
    schema = ui_spec.get("schema")
    if isinstance(schema, Mapping):
        fields: list[FormField] = []
        for name in (CONNECTOR, OPERATIONS):
            section = _map(_map(schema, "properties"), name)
            hints = _map(_map(ui_spec, "properties"), name)
            fields += _walk(_Node(section, hints, (name,), secret=section.get("encrypt") is True), warnings)
    else:
        fields = sorted(_walk(_Node(ui_spec, {}, (CONNECTOR,)), warnings), key=lambda each: each.order)
    if not fields:
        warnings.append("the ui-config has no form")
    return Form(tuple(fields), tuple(dict.fromkeys(warnings)))


@dataclass(frozen=True, slots=True)
class _Node:
    """An object of the schema with its hints, where it is, and what it depends on."""

    schema: Mapping[str, Any]
    hints: Mapping[str, Any]
    path: Path
    when: tuple[Condition, ...] = ()
    secret: bool = False
    required: frozenset[str] = _NONE


def _walk(node: _Node, warnings: list[str]) -> Iterator[FormField]:
    required = _names(node.schema.get("required"))
    here = _Node(node.schema, node.hints, node.path, node.when, node.secret, required)
    for name, value in _map(node.schema, "properties").items():
        yield from _member(here, name, value, warnings)
    for trigger, rule in _map(node.schema, "dependencies").items():
        options = rule.get("oneOf") if isinstance(rule, Mapping) else None
        for option in options if isinstance(options, list) else ():
            if isinstance(option, Mapping):
                yield from _option(here, trigger, option, warnings)


def _option(node: _Node, trigger: str, option: Mapping[str, Any], warnings: list[str]) -> Iterator[FormField]:
    members = dict(_map(option, "properties"))
    chosen = members.pop(trigger, None)
    values = _choices(chosen) if isinstance(chosen, Mapping) else ()
    when = (*node.when, ((*node.path, trigger), values))
    inner = _Node(option, node.hints, node.path, when, node.secret, _names(option.get("required")))
    for name, value in members.items():
        yield from _member(inner, name, value, warnings)


def _member(node: _Node, name: str, value: Any, warnings: list[str]) -> Iterator[FormField]:
    path = (*node.path, name)
    if not isinstance(value, Mapping):
        warnings.append(f"{'.'.join(path)} is not described")
        return
    hints = _map(node.hints, name)
    if isinstance(value.get("properties"), Mapping):
        yield from _walk(_Node(value, hints, path, node.when, node.secret), warnings)
        return
    kind, format = value.get("type", "string"), value.get("format")
    if not isinstance(kind, str) or kind not in _TYPES:
        warnings.append(f"{'.'.join(path)} has a type that is not known: {str(kind)[:40]}")
        kind = "string"
    yield FormField(
        path=path,
        type=kind,
        title=str(value.get("title") or name),
        help=_help(value),
        default=value.get("default"),
        choices=_choices(value),
        pattern=_pattern(value.get("pattern"), path, warnings),
        minimum=_number(value.get("minimum")),
        maximum=_number(value.get("maximum")),
        order=_number(value.get("uiIndex")) or 0,
        required=name in node.required,
        secret=node.secret or format == "password" or hints.get("ui:widget") == "password",
        fixed=hints.get("ui:readonly") is True,
        hidden=format == "hidden" or hints.get("ui:widget") == "hidden",
        when=node.when,
    )


def _help(value: Mapping[str, Any]) -> str:
    notes = value.get("fieldDescription")
    first = notes[0] if isinstance(notes, list) and notes and isinstance(notes[0], Mapping) else {}
    return str(value.get("helptext") or value.get("description") or first.get("description") or "")


def _pattern(text: Any, path: Path, warnings: list[str]) -> str | None:
    """The pattern, without the slashes that some write around it."""
    if not isinstance(text, str):
        return None
    pattern = str(text)
    if len(pattern) > 1 and pattern[0] == pattern[-1] == "/":
        pattern = pattern[1:-1]
    try:
        _matcher(pattern)
    except SchemaError:
        warnings.append(f"the pattern of {'.'.join(path)} can't be used")
        return None
    return pattern


def _matcher(pattern: str) -> TypeAdapter[str]:
    """By an engine whose time grows with the text alone: a pattern made to be slow is not."""
    return TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])


def _check(of: FormField, value: Any) -> None:
    kinds = _TYPES[of.type]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise _invalid(of, f"is no {of.type}")
    if of.choices and value not in of.choices:
        raise _invalid(of, f"is none of {', '.join(map(str, of.choices))}")
    if of.fixed and of.default is not None and value != of.default:
        raise _invalid(of, f"is fixed at {of.default}")
    if isinstance(value, int | float):
        if of.minimum is not None and value < of.minimum:
            raise _invalid(of, f"is less than {of.minimum:g}")
        if of.maximum is not None and value > of.maximum:
            raise _invalid(of, f"is more than {of.maximum:g}")
    if isinstance(value, str) and of.pattern is not None:
        try:
            _matcher(of.pattern).validate_python(value)
        except ValidationError:
            raise _invalid(of, "does not match its pattern") from None


def _invalid(of: FormField, what: str) -> ConfigError:
    remedy = "Correct the value." if not of.help else f"It is for: {of.help}."
    return ConfigError("form.invalid", f"{of.name} {what}", field=of.name, remedy=remedy)


def _applies(of: FormField, given: Mapping[Path, Any]) -> bool:
    return all(given.get(path) in values if values else path in given for path, values in of.when)


def _leaves(values: Mapping[str, Any], known: set[Path], path: Path) -> Iterator[tuple[Path, Any]]:
    for name, value in values.items():
        here = (*path, name)
        if isinstance(value, Mapping) and here not in known:
            yield from _leaves(value, known, here)
        else:
            yield here, value


def _choices(value: Mapping[str, Any]) -> tuple[Any, ...]:
    if "const" in value:
        return (value["const"],)
    found = value.get("enum")
    return tuple(found) if isinstance(found, list) else ()


def _map(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = table.get(name)
    return found if isinstance(found, Mapping) else {}


def _names(value: Any) -> frozenset[str]:
    return frozenset(name for name in value if isinstance(name, str)) if isinstance(value, list) else _NONE


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
