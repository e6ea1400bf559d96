"""Finds every error code by reading the source: a code is a literal, and its message stands beside it."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import headrace
from headrace import errors
from headrace.errors import HeadraceError

SOURCE = Path(headrace.__file__).parent
CODE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
REJECT = "a reject"


@dataclass(frozen=True)
class Place:
    """One place that makes an error or a reject. `code` is None where it is neither literal nor copied."""

    code: str | None
    error: str
    message: str
    remedy: str
    where: str


def error_classes() -> list[type[HeadraceError]]:
    """The classes of `headrace.errors`, in the order of that file."""
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in found if issubclass(kind, HeadraceError)]


def error_codes() -> dict[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for place in places():
        if place.code:
            found.setdefault(place.code, []).append(place)
    return found


@cache
def places() -> tuple[Place, ...]:
    """Every place in the source where an error or a reject is made, in a stable order."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
    names = _error_names(trees.values())
    return tuple(
        place
        for path, tree in trees.items()
        for node in ast.walk(tree)
        for place in _places_in(node, names, str(path.relative_to(SOURCE)))
    )


def _error_names(trees: Iterable[ast.Module]) -> frozenset[str]:
    names = {kind.__name__ for kind in error_classes()}
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while more := {c.name for c in classes if {_name(base) for base in c.bases} & names} - names:
        names |= more
    return frozenset(names)


def _places_in(node: ast.AST, names: frozenset[str], file: str) -> Iterator[Place]:
    if isinstance(node, ast.Call) and _name(node.func) in names:
        code = node.args[0] if node.args else None
        message = node.args[1] if len(node.args) > 1 else None
        copied = isinstance(code, ast.Attribute) and code.attr == "code"
        remedy = next((keyword.value for keyword in node.keywords if keyword.arg == "remedy"), None)
        yield Place(
            "" if copied else _literal(code),
            _name(node.func),
            shape(message),
            shape(remedy),
            f"{file}:{node.lineno}",
        )
        return
    if isinstance(node, ast.Call) and _name(node.func) == "Reject":
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        if text := _literal(named.get("code")):
            yield Place(text, REJECT, shape(named.get("reason")), "", f"{file}:{node.lineno}")
    # the code of a reject may travel beside its reason, to where the reject is made
    pair = node.elts if isinstance(node, ast.Tuple) else node.args if isinstance(node, ast.Call) else []
    for first, second in itertools.pairwise(pair):
        text, reason = _literal(first), shape(second)
        if text and CODE.fullmatch(text) and (" " in reason or reason == "…"):
            yield Place(text, REJECT, reason, "", f"{file}:{first.lineno}")


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _literal(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def shape(node: ast.expr | None) -> str:
    """A message as it will look, with … for what is only known when it happens."""
    match node:
        case None | ast.Constant(value=None):
            return ""
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(shape, parts))
        case ast.IfExp(body=first, orelse=second):
            return " / ".join(dict.fromkeys(filter(None, (shape(first), shape(second)))))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return shape(left) + shape(right)
        case _:
            return "…"
