"""`headrace registry`: the connectors that packages brought, by version, and their way to being live."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from headrace.cli.command import UsageError
from headrace.cli.screen import Column, Screen, many
from headrace.control.access import OPERATOR
from headrace.errors import NotFoundError
from headrace.model.workspace import LOCAL

if TYPE_CHECKING:
    from headrace.cli.session import Session
    from headrace.control.access import Actor
    from headrace.model.registry import InstanceDraft, RegistryEntry

Id = Annotated[str, Argument(help="An id of headrace registry list.")]


def entries(
    screen: Screen,
    status: Annotated[
        Literal["Draft", "InValidation", "Live", "Retired"] | None, Option("--status", help="Only these.")
    ] = None,
) -> None:
    """List the entries of the registry, and why one can't be run.

    \b
    headrace registry list
    headrace registry list --status Draft
    """
    from headrace.cli.session import Session
    from headrace.model.registry import RegistryStatus

    with Session(screen) as session:
        wanted = [RegistryStatus(status)] if status else []
        _show(screen, list(session.platform.registry.list(by=OPERATOR, statuses=wanted)))


def register(
    screen: Screen, package: Annotated[Path, Argument(help="A zip or tar with the package of a connector.")]
) -> None:
    """Enter what a package brings. Nothing of it is run.

    \b
    headrace registry register ./rates-connector.tar.gz
    """
    from headrace.cli.session import Session

    with Session(screen) as session:
        try:
            content = package.open("rb")
        except OSError as error:
            raise _unreadable(package, error) from None
        with content:
            _show(screen, list(session.platform.registry.register(OPERATOR, package.name, content)))


def validate(screen: Screen, id: Id) -> int:
    """Check a draft: it waits for approval then, or stays a draft.

    \b
    headrace registry validate rates-connector-1.0.0
    """
    from headrace.cli.session import Session
    from headrace.model.registry import RegistryStatus

    with Session(screen) as session:
        entry = session.platform.registry.validate(OPERATOR, id)
    _show(screen, [entry])
    for line in entry.origin.report:
        screen.say(line)
    if entry.status is RegistryStatus.DRAFT:
        return 3
    screen.say(f"next: headrace registry approve {id}")
    return 0


def approve(screen: Screen, id: Id) -> None:
    """Make a validated entry live, in place of the version before.

    \b
    headrace registry approve rates-connector-1.0.0
    """
    from headrace.cli.session import Session

    with Session(screen) as session:
        _show(screen, [session.platform.registry.approve(OPERATOR, id)])


def retire(screen: Screen, id: Id) -> None:
    """Take a live entry out of the catalogue; what runs it goes on.

    \b
    headrace registry retire rates-connector-1.0.0
    """
    from headrace.cli.session import Session

    with Session(screen) as session:
        _show(screen, [session.platform.registry.retire(OPERATOR, id)])


def take_over(
    screen: Screen,
    export: Annotated[Path, Argument(help="JSON with connector_registry and connector_instances.")],
    workspace: Annotated[str, Option("--workspace", help="Where instances go.")] = LOCAL,
    target: Annotated[
        str | None, Option("--target", help="Name of the connection that instances write to.")
    ] = None,
    key_file: Annotated[
        Path | None, Option("--key-file", help="Holds the key of 32 characters that opens their configs.")
    ] = None,
) -> None:
    """Take over the rows of another registry, and its instances as pipelines that are paused.

    May be repeated: what is there already is left as it is.

    \b
    headrace registry import obsrv.json
    headrace registry import obsrv.json --target lake --key-file old.key
    """
    from headrace.cli.session import Session
    from headrace.control.takeover import read_entries, read_instances

    document = _document(export)
    rows = read_entries(document)
    if document.get("connector_instances") and target is None:
        raise UsageError(
            "cli.needs_target", "the file has instances, and nobody says where they write", field="--target",
            remedy="Add --target with the name of a connection.",
        )  # fmt: skip
    key = _text(key_file).strip() if key_file else None
    screen.hide([key] if key else [])
    with Session(screen) as session:
        there = session.platform.workspaces.enter(OPERATOR, workspace)
        into = session.platform.connections.by_name(there, target).id if target else ""
        drafts = read_instances(document, into, key)
        _show(screen, list(session.platform.registry.take_over(OPERATOR, rows)))
        for draft in drafts:
            _publish(session, there, draft)
    screen.say(f"taken over: {many(len(rows), 'row')}, {many(len(drafts), 'instance')}")


def _publish(session: Session, there: Actor, draft: InstanceDraft) -> None:
    try:
        made, word = session.platform.instances.get(there, draft.id), "was there already"
    except NotFoundError:
        made, word = session.platform.instances.publish(there, draft), "is paused"
    session.screen.say(f"{draft.dataset}: the pipeline {made.id} {word}")


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(_text(file))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UsageError(
            "cli.not_json", f"{file} holds no JSON object", field="file",
            remedy="Write it as {\"connector_registry\": […], \"connector_instances\": […]}.",
        )  # fmt: skip
    return document


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: OSError) -> UsageError:
    return UsageError(
        "cli.unreadable", f"{file} can't be read: {error.strerror}", field="file", remedy="Check the path."
    )


def _show(screen: Screen, found: list[RegistryEntry]) -> None:
    rows = [
        {
            "id": e.id,
            "name": e.name,
            "category": e.category,
            "status": e.status.value,
            "technology": e.technology,
            "runnable": e.origin.runnable,
            "not_runnable_reason": e.origin.reason,
            "contract": e.origin.contract,
            "digest": e.origin.digest,
            "report": list(e.origin.report),
        }
        for e in found
    ]
    screen.rows("entries", rows, _ENTRY, none="the registry is empty")


_ENTRY = (
    Column("id", "id", whole=True),
    Column("category", "category"),
    Column("status", "status"),
    Column("runs", "runnable"),
    Column("why not", "not_runnable_reason", optional=True, style="dim"),
)
