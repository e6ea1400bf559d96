"""The command `headrace`: its commands, its version, and how it ends."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from typing import Annotated

import typer

from headrace.cli import (
    catalogue,
    connections,
    history,
    machine,
    maintenance,
    people,
    plan,
    positions,
    projects,
    registry,
    run,
    serve,
)
from headrace.cli.command import INTERRUPTED, USAGE, Function, command

HELP = """Move rows from databases, files and APIs into tables, exactly once.

  headrace run --from postgresql://me@db/shop --to iceberg:./lake --stream public.orders

needs no file and no server; the same line later carries on where it stopped. `headrace init` writes a
project file for more than one line.
"""

app = typer.Typer(
    name="headrace", help=HELP, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]}, rich_markup_mode="rich",
)  # fmt: skip

MOVE = "Move data"
LOOK = "See what happened"
SET_UP = "Set up"

for panel, functions in {
    MOVE: (run.run, plan.plan),
    SET_UP: (projects.init, projects.validate, connections.check, connections.discover),
    LOOK: (
        history.status,
        history.logs,
        history.cancel,
        positions.state,
        positions.rejects,
        positions.rewind,
    ),
    "Look after tables": (maintenance.maintain,),
    "Run as a service": (serve.serve, serve.worker),
    "This machine": (machine.doctor, machine.completion),
}.items():
    for function in functions:
        app.command(rich_help_panel=panel)(command(function))

GROUPS = {
    "admin": "Administrators of this installation.",
    "member": "Who is in a workspace.",
    "workspace": "Workspaces and their ids.",
    "key": "The keys under which secrets are sealed.",
    "registry": "Connectors that packages bring, by version.",
}
groups = {name: typer.Typer(name=name, help=text, no_args_is_help=True) for name, text in GROUPS.items()}

IN_GROUPS: dict[str, Function] = {
    "admin create": people.create,
    "admin list": people.admins,
    "admin reset": people.reset,
    "member add": people.add,
    "member list": people.members,
    "workspace list": people.workspaces,
    "workspace target": people.target,
    "key rotate": people.rotate,
    "registry list": registry.entries,
    "registry register": registry.register,
    "registry validate": registry.validate,
    "registry approve": registry.approve,
    "registry retire": registry.retire,
    "registry import": registry.take_over,
}
for words, action in IN_GROUPS.items():
    group, _, name = words.partition(" ")
    groups[group].command(name)(command(action))
for name, inner in groups.items():
    app.add_typer(inner, rich_help_panel=SET_UP if name == "registry" else "People and keys")

connectors = typer.Typer(
    name="connectors", help="What can be read and written, and more of it.", cls=catalogue.ShortForms
)
CONNECTORS: dict[str, Function] = {
    "list": catalogue.everything,
    "show": catalogue.show,
    "install": catalogue.install,
}
for name, action in CONNECTORS.items():
    connectors.command(name)(command(action))
app.add_typer(connectors, rich_help_panel=SET_UP)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
    json: Annotated[bool, typer.Option("--json", help="With --version: as JSON.")] = False,
) -> None:
    if version:
        machine.show_version(json)
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.BadParameter("name a command")
    if json:
        raise typer.BadParameter(
            f"put --json after the command: headrace {context.invoked_subcommand} --json"
        )


def main() -> None:
    """Run the command line of this process, and end the process."""
    # What is imported is never garbage, and looking for it took a tenth of the start: so many objects that
    # no start has them, and few enough for cycles to go in a long run.
    gc.set_threshold(250_000)
    # With Arrow's own allocator a load took an eighth more CPU time and a quarter more memory.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    # numpy's threads for linear algebra, of which there is none here, would turn idly for a while at first.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = invoke(sys.argv[1:])
    with contextlib.suppress(OSError):  # nobody reads any more
        sys.stderr.flush()
    # Everything is closed and synced by now; taking a thousand modules apart would take a tenth of a second.
    atexit._run_exitfuncs()
    os._exit(code)


def invoke(arguments: list[str]) -> int:
    """Run one command line in this process; gives its exit code."""
    if "_HEADRACE_COMPLETE" in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
    try:
        code: int | None = app(arguments, prog_name="headrace", standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except typer.TyperException as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has seen enough; nothing may be written at the end of the process either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _usage(error: typer.TyperException) -> int:
    """The command line makes no sense: say why, and where the help is."""
    context = getattr(error, "ctx", None)
    where: str = context.command_path if context else "headrace"
    message = error.format_message().replace("Value error, ", "")
    if not message.startswith("\n") and message.strip():
        sys.stderr.write(f"error: {message.removesuffix('.')}\n")
    sys.stderr.write(f"  see {where} --help\n")
    return USAGE
