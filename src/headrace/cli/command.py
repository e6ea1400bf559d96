"""How a function becomes a command: its options spread out, its errors shown, its exit code set."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import traceback
import warnings
from collections.abc import Callable
from typing import Any, get_type_hints

import typer

from headrace.cli.options import Common
from headrace.cli.screen import Screen
from headrace.errors import HeadraceError

USAGE = 64
INTERRUPTED = 130
TERMINATED = 143

Function = Callable[..., int | None]


class UsageError(HeadraceError):
    """The command line itself makes no sense."""

    exit_code = USAGE


def command(function: Function) -> Callable[..., None]:
    """The function as typer wants it.

    A parameter that is a dataclass gives the command an option for each of its fields; one that is a
    Screen, those that every command has. What the function returns is the exit code; None is 0.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    plain: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if kind is Screen:
            groups[parameter.name] = Common
        elif dataclasses.is_dataclass(kind):
            groups[parameter.name] = kind
        else:
            plain.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
    for options in sorted(groups.values(), key=lambda group: group is Common):
        fields = get_type_hints(options, include_extras=True)
        plain += [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=fields[f.name]
            )
            for f in dataclasses.fields(options)
        ]

    @functools.wraps(function)
    def spread(**given: Any) -> None:
        for name, options in groups.items():
            given[name] = options(**{f: given.pop(f) for f in options.__dataclass_fields__})
            if options is Common:
                given[name] = screen = Screen(given[name])
        raise typer.Exit(_run(screen, lambda: function(**given)))

    del spread.__wrapped__  # inspect would look through to the old signature
    spread.__signature__ = inspect.Signature(plain)  # type: ignore[attr-defined]
    spread.__annotations__ = {p.name: p.annotation for p in plain}
    return spread


def _run(screen: Screen, body: Callable[[], int | None]) -> int:
    _quieten(screen)
    try:
        return body() or 0
    except (typer.Exit, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        screen.say("interrupted")
        return INTERRUPTED
    except HeadraceError as error:
        if screen.debug:
            screen.trace(traceback.format_exc())
        screen.fail(error)
        return error.exit_code
    except Exception as error:
        if screen.debug:
            screen.trace(traceback.format_exc())
        from headrace.engine.retry import report

        screen.fail(report(error))
        return 1


def _quieten(screen: Screen) -> None:
    """Libraries log and warn for developers: only those who asked see it."""
    handler = logging.StreamHandler() if screen.debug else logging.NullHandler()
    logging.basicConfig(handlers=[handler], level=logging.WARNING, format="%(name)s: %(message)s", force=True)
    if not screen.debug:
        warnings.simplefilter("ignore")
