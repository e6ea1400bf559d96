"""A filter of the pipeline's owner: one SQL condition, and nothing that could leave its parentheses."""

from __future__ import annotations

import re
from functools import cache

from headrace.errors import ConfigError

_OPEN, _CLOSE = "([", ")]"
# what may stand before a parenthesis without being a function
_SYNTAX = frozenset({"and", "or", "not", "in", "any", "all", "between", "is", "like", "ilike"})
# values that depend on when they are asked for
_CLOCK = re.compile(
    r"current_\w+|local\w+|now|today|tomorrow|yesterday|select|user|session_user", re.IGNORECASE
)


def parenthesised(text: str) -> str:
    """The condition, safe to be put behind AND. Raises ConfigError for what is not one expression."""
    depth: list[str] = []
    for name, token in _tokens(text):
        if name == "comment":
            raise _refused("holds a comment")
        if token == ";":
            raise _refused("holds a semicolon")
        if name == "other" and token in _OPEN:
            depth.append(_CLOSE[_OPEN.index(token)])
        elif name == "other" and token in _CLOSE and (not depth or depth.pop() != token):
            raise _refused("closes a parenthesis that it did not open")
    if depth:
        raise _refused("leaves a parenthesis open")
    return f"({text.strip()})"


def is_fixed(text: str) -> bool:
    """True when the condition is certain to give the same answer for the same row at any time."""
    before = ""
    for name, token in _tokens(text):
        if name in ("word", "quoted") and _CLOCK.fullmatch(token):
            return False
        if name in ("string", "escaped", "dollar") and _CLOCK.search(token):
            return False
        if token == "(" and before and before.lower() not in _SYNTAX:
            return False
        if name != "space":
            before = token if name in ("word", "quoted") else ""
    return True


@cache  # takes longer to compile than all else here to load, and few runs have a filter
def _token() -> re.Pattern[str]:
    return re.compile(
        r"""(?P<space>\s+)
          | (?P<comment>--|/\*)
          | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
          | (?P<string>(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*')
          | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")+")
          | (?P<dollar>\$(?P<tag>[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$.*?\$(?(tag)(?P=tag))\$)
          | (?P<word>(?![eE]')[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
          | (?P<other>(?![eE]')[^'"$])""",
        re.VERBOSE | re.DOTALL,
    )


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, at, token = [], 0, _token()
    if not text.strip():
        raise _refused("is empty")
    if "\0" in text:
        raise _refused("holds a NUL character")
    while at < len(text):
        match = token.match(text, at)
        if match is None:
            raise _refused("leaves a quote open")
        name = str(match.lastgroup if match.lastgroup != "tag" else "dollar")
        tokens.append((name, match[0]))
        at = match.end()
    return tokens


def _refused(why: str) -> ConfigError:
    return ConfigError(
        "postgres.filter",
        f"the filter {why}",
        field="filter",
        remedy="Write one SQL condition on the table's columns, such as: total > 100 AND state = 'paid'.",
    )
