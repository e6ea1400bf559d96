"""Every operation declares what it needs, and nobody gets at what is another workspace's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from headrace.connector import Selection
from headrace.control.access import GRANTS, OPERATOR, Actor, Guarded, Kind, Permission, needs
from headrace.control.platform import Platform
from headrace.control.watch import Watcher
from headrace.engine.stop import Stop
from headrace.errors import AuthError, HeadraceError, NotFoundError, SignInNeeded
from headrace.model.file import ImportPlan
from headrace.model.registry import InstanceDraft
from headrace.model.run import RunFilter
from headrace.model.workspace import Role
from headrace.store import Store
from tests.integration.tenants import Tenant, add_user, platform_of, signed_in, tenant

NOT_OF_A_WORKSPACE = {
    Permission.ANYONE,
    Permission.SIGNED_IN,
    Permission.PERSON,
    Permission.ADMINISTER,
}


@pytest.fixture
def platform(store: Store, tmp_path: Path) -> Iterator[Platform]:
    platform = platform_of(store, tmp_path)
    yield platform
    platform.mailer.close()


@pytest.fixture
def sides(platform: Platform, store: Store) -> tuple[Tenant, Tenant]:
    return tenant(platform, store, "left"), tenant(platform, store, "right")


def operations(platform: Platform) -> dict[str, tuple[Callable[..., Any], Permission]]:
    """All that control can do, by name."""
    return {
        f"{type(service).__name__}.{name}": (getattr(service, name), rule.permission)
        for service in platform.services()
        for name, rule in service.operations.items()
    }


def attempt(operation: Callable[..., Any], actor: Actor | None) -> Any:
    """Call it with something for each argument that it asks for."""
    given = [
        "x"
        for p in inspect.signature(operation).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "actor"
    ]
    named = {
        p.name: True
        for p in inspect.signature(operation).parameters.values()
        if p.default is p.empty and p.kind is p.KEYWORD_ONLY
    }
    return operation(actor, *given, **named)


def test_every_operation_takes_an_actor_and_declares_a_permission(platform: Platform) -> None:
    found = operations(platform)
    assert {name.partition(".")[0] for name in found} == {
        "Audits", "Connections", "Connectors", "Files", "Instances", "Keys", "Pipelines", "Positions",
        "Registry", "Runs", "Sessions", "Teams", "Tokens", "Users", "Workspaces",
    }  # fmt: skip
    for service in platform.services():
        public = {n for n, v in vars(type(service)).items() if not n.startswith("_") and callable(v)}
        assert public == set(service.operations)
    for name, (operation, permission) in found.items():
        first = next(iter(inspect.signature(operation).parameters), None)
        assert (first == "actor") == (permission is not Permission.ANYONE), name


def test_an_operation_that_declares_nothing_can_not_be_defined() -> None:
    with pytest.raises(TypeError, match="declares no permission"):

        class Open(Guarded):
            def read(self, actor: Actor) -> None: ...


def test_a_permission_that_no_role_has_is_denied_to_all(store: Store) -> None:
    class Closed(Guarded):
        @needs(Permission.CONNECTION_WRITE)
        def write(self, actor: Actor) -> str:
            return "done"

    viewer = Actor(kind=Kind.USER, id="x", workspace="w", role=Role.VIEWER)
    with pytest.raises(AuthError):
        Closed(store).write(viewer)
    assert Closed(store).write(replace(viewer, role=Role.MEMBER)) == "done"


def test_nobody_gets_nothing(platform: Platform) -> None:
    for name, (operation, permission) in operations(platform).items():
        if permission is not Permission.ANYONE:
            with pytest.raises(SignInNeeded):
                attempt(operation, None)
                pytest.fail(f"{name} works for nobody")


def test_who_has_no_role_in_a_workspace_finds_nothing_there(
    platform: Platform, store: Store, sides: tuple[Tenant, Tenant]
) -> None:
    stranger = replace(signed_in(add_user(store, "s@x.local")), workspace=sides[0].here.place)
    for name, (operation, permission) in operations(platform).items():
        if permission in NOT_OF_A_WORKSPACE - {Permission.ADMINISTER}:
            continue
        with pytest.raises(HeadraceError) as raised:
            attempt(operation, stranger)
        expected: Any = AuthError if permission is Permission.ADMINISTER else NotFoundError
        assert isinstance(raised.value, expected), name


def test_who_chose_no_workspace_is_told_so(platform: Platform, store: Store) -> None:
    with pytest.raises(AuthError) as raised:
        platform.pipelines.list(signed_in(add_user(store, "s@x.local")))
    assert raised.value.code == "access.no_workspace"


def test_a_viewer_may_look_and_nothing_else(platform: Platform, store: Store, sides: Any) -> None:
    viewer = add_user(store, "v@x.local")
    platform.workspaces.add_member(sides[0].here, viewer.email, Role.VIEWER)
    actor = platform.workspaces.enter(signed_in(viewer), sides[0].here.place)
    looked = 0
    for name, (operation, permission) in operations(platform).items():
        if permission in NOT_OF_A_WORKSPACE:
            continue
        try:
            attempt(operation, actor)
        except AuthError as error:
            assert permission not in GRANTS[Role.VIEWER] or name == "Workspaces.remove_member", name
            assert error.code == "access.denied"
        except NotFoundError:
            assert permission in GRANTS[Role.VIEWER], name
        else:
            assert permission in GRANTS[Role.VIEWER], name
        looked += permission in GRANTS[Role.VIEWER]
    assert looked > 10
    assert [c.id for c in platform.connections.list(actor)] == [sides[0].source.id, sides[0].target.id]
    for test in (
        lambda: platform.connections.test(actor, sides[0].source.id, source=True),
        lambda: platform.pipelines.ends(actor, sides[0].pipeline),
        lambda: platform.workspaces.remove_member(actor, sides[0].owner.id),
    ):
        with pytest.raises(AuthError):
            test()


class Silent(Watcher):
    def started(self, run: Any) -> None: ...
    def progress(self, progress: Any) -> None: ...
    def log(self, level: str, message: str, stream: str | None) -> None: ...


FOREIGN: dict[str, Callable[[Platform, Actor, Tenant], Any]] = {
    "Connections.get": lambda p, a, t: p.connections.get(a, t.source.id),
    "Connections.update": lambda p, a, t: p.connections.update(a, t.source.id, {"name": "mine"}),
    "Connections.delete": lambda p, a, t: p.connections.delete(a, t.source.id),
    "Connections.test": lambda p, a, t: p.connections.test(a, t.source.id, source=True),
    "Connections.discover": lambda p, a, t: p.connections.discover(a, t.source.id, Selection()),
    "Connections.make_default_target": lambda p, a, t: p.connections.make_default_target(a, t.target.id),
    "Connections.try_out": lambda p, a, t: p.connections.try_out(a, t.source.id),
    "Connections.create": lambda p, a, t: p.connections.create(a, replace(t.source, team=t.team.id), {
        "host": "h", "database": "d", "username": "u"}),
    "Instances.get pipeline": lambda p, a, t: p.instances.get(a, t.pipeline.id),
    "Instances.retire": lambda p, a, t: p.instances.retire(a, t.pipeline.id),
    "Instances.publish": lambda p, a, t: p.instances.publish(a, InstanceDraft(
        id=str(uuid4()), dataset="d", entry="aws-s3-connector-0.1.0", target=t.target.id,
        connector_config={"url": "s3://b/*.csv"})),
    "Files.get": lambda p, a, t: p.files.get(a, t.file.id),
    "Files.preview": lambda p, a, t: p.files.preview(a, t.file.id),
    "Files.plan": lambda p, a, t: p.files.plan(a, t.file.id, ImportPlan(table="t")),
    "Files.start": lambda p, a, t: p.files.start(a, t.file.id),
    "Files.rejects": lambda p, a, t: p.files.rejects(a, t.file.id),
    "Files.delete": lambda p, a, t: p.files.delete(a, t.file.id),
    "Pipelines.get": lambda p, a, t: p.pipelines.get(a, t.pipeline.id),
    "Pipelines.create": lambda p, a, t: p.pipelines.create(a, replace(t.pipeline, id="new", name="new")),
    "Pipelines.update": lambda p, a, t: p.pipelines.update(a, replace(t.pipeline, paused=True)),
    "Pipelines.delete": lambda p, a, t: p.pipelines.delete(a, t.pipeline.id),
    "Pipelines.ends": lambda p, a, t: p.pipelines.ends(a, t.pipeline),
    "Runs.trigger": lambda p, a, t: p.runs.trigger(a, t.pipeline.id),
    "Runs.cancel": lambda p, a, t: p.runs.cancel(a, t.run),
    "Runs.get": lambda p, a, t: p.runs.get(a, t.run),
    "Runs.run": lambda p, a, t: p.runs.run(a, t.job(), Stop(), Silent()),
    "Positions.checkpoints": lambda p, a, t: p.positions.checkpoints(a, t.pipeline.id),
    "Positions.rejects": lambda p, a, t: p.positions.rejects(a, t.pipeline.id),
    "Positions.rewind": lambda p, a, t: p.positions.rewind(a, t.job(), "s", {}),
    "Teams.get": lambda p, a, t: p.teams.get(a, t.team.id),
    "Teams.update": lambda p, a, t: p.teams.update(a, t.team.id, {"name": "mine"}),
    "Teams.delete": lambda p, a, t: p.teams.delete(a, t.team.id),
    "Teams.members": lambda p, a, t: p.teams.members(a, t.team.id),
    "Teams.member": lambda p, a, t: p.teams.member(a, t.team.id, t.owner.id),
    "Teams.add_members": lambda p, a, t: p.teams.add_members(a, t.team.id, [a.id]),
    "Teams.remove_member": lambda p, a, t: p.teams.remove_member(a, t.team.id, t.owner.id),
    "Tokens.revoke": lambda p, a, t: p.tokens.revoke(a, t.service.id),
    "Users.get": lambda p, a, t: p.users.get(a, t.owner.id),
    "Users.by_email": lambda p, a, t: p.users.by_email(a, t.owner.email),
    "Users.update": lambda p, a, t: p.users.update(a, t.owner.id, {"email": "x@y.z"}),
    "Users.delete": lambda p, a, t: p.users.delete(a, t.owner.id),
    "Workspaces.enter": lambda p, a, t: p.workspaces.enter(a, t.here.place),
    "Workspaces.by_name": lambda p, a, t: p.workspaces.by_name(a, "right"),
    "Workspaces.member": lambda p, a, t: p.workspaces.member(a, t.owner.id),
    "Workspaces.set_role": lambda p, a, t: p.workspaces.set_role(a, t.owner.id, Role.VIEWER),
    "Workspaces.remove_member": lambda p, a, t: p.workspaces.remove_member(a, t.owner.id),
    "Workspaces.withdraw": lambda p, a, t: p.workspaces.withdraw(a, t.invitation.id),
    **{
        f"Workspaces.enter_of {kind}": lambda p, a, t, kind=kind: p.workspaces.enter_of(  # type: ignore[misc]
            a, kind, t.id_of(kind)
        )
        for kind in ("connection", "pipeline", "run", "team")
    },
    "Users.update workspace": lambda p, a, t: p.users.update(a, a.id, {"workspace": t.here.place}),
}  # fmt: skip
DENIED = {"Users.get", "Users.update", "Users.delete"}  # for known and unknown ids alike
LISTS: dict[str, Callable[[Platform, Actor, Tenant], Any]] = {
    "Audits.list": lambda p, a, t: p.audits.list(a),
    "Connections.list": lambda p, a, t: p.connections.list(a),
    "Files.list": lambda p, a, t: p.files.list(a),
    "Pipelines.list": lambda p, a, t: p.pipelines.list(a),
    "Runs.list": lambda p, a, t: (p.runs.list(a), p.runs.list(a, t.pipeline.id)),
    "Runs.page": lambda p, a, t: (p.runs.page(a), p.runs.page(a, RunFilter(pipeline=t.pipeline.id))),
    "Runs.outcomes": lambda p, a, t: p.runs.outcomes(a, [t.pipeline.id]),
    "Runs.logs": lambda p, a, t: p.runs.logs(a, t.run),
    "Teams.list": lambda p, a, t: p.teams.list(a),
    "Tokens.list": lambda p, a, t: p.tokens.list(a),
    "Users.list": lambda p, a, t: (p.users.list(a), p.users.list(a, search="right")),
    "Workspaces.get": lambda p, a, t: p.workspaces.get(a),
    "Workspaces.list": lambda p, a, t: p.workspaces.list(a),
    "Workspaces.members": lambda p, a, t: p.workspaces.members(a),
    "Workspaces.invitations": lambda p, a, t: p.workspaces.invitations(a),
    "Workspaces.own": lambda p, a, t: p.workspaces.own(a),
    "Connections.by_name": lambda p, a, t: p.connections.by_name(a, "source"),
    "Pipelines.by_name": lambda p, a, t: p.pipelines.by_name(a, "p"),
    "Teams.by_name": lambda p, a, t: p.teams.by_name(a, "team"),
}
OWN_ONLY = {  # they name nothing that could be another one's
    "Pipelines.remember", "Teams.create", "Tokens.create", "Users.change_password", "Sessions.logout",
    "Workspaces.create", "Workspaces.update", "Workspaces.delete", "Workspaces.add_member",
    "Instances.list", "Registry.form", "Registry.packages", "Workspaces.invite", "Workspaces.active",
    "Workspaces.set_broker", "Workspaces.try_broker", "Connections.default_target", "Files.receive",
}  # fmt: skip


def test_the_matrix_of_two_tenants_knows_every_operation(platform: Platform) -> None:
    known = {name.partition(" ")[0] for name in (*FOREIGN, *LISTS, *OWN_ONLY)}
    all_of_them = operations(platform)
    open_to_nobody = {
        n for n, (_, p) in all_of_them.items() if p in (Permission.ANYONE, Permission.ADMINISTER)
    }
    assert known - {"Users.delete"} == set(all_of_them) - open_to_nobody


def test_what_is_another_workspaces_is_not_found(platform: Platform, sides: tuple[Tenant, Tenant]) -> None:
    left, right = sides
    for name, call in FOREIGN.items():
        with pytest.raises(HeadraceError) as raised:
            call(platform, left.here, right)
        if name in DENIED:
            assert raised.value.code == "access.denied", name
        else:
            assert isinstance(raised.value, NotFoundError), (name, raised.value)
    for name, call in FOREIGN.items():  # and nothing was changed by trying
        if name.endswith(".get") and name not in DENIED:
            assert call(platform, right.here, right), name
    assert platform.connections.get(right.here, right.source.id) == right.source


def test_no_list_shows_what_is_another_workspaces(platform: Platform, sides: tuple[Tenant, Tenant]) -> None:
    left, right = sides
    for name, call in LISTS.items():
        shown = repr(call(platform, left.here, right))
        assert [id for id in right.ids() if id in shown] == [], name
        if name not in ("Runs.logs", "Runs.outcomes"):
            assert any(id in shown for id in left.ids()), name


def test_what_a_team_owns_is_for_the_team(platform: Platform, store: Store, sides: Any) -> None:
    left = sides[0]
    owner = left.here
    mate = platform.workspaces.enter(signed_in(left.member), owner.place)
    chief = add_user(store, "chief@x.local")
    platform.workspaces.add_member(owner, chief.email, Role.OWNER)
    chief_here = platform.workspaces.enter(signed_in(chief), owner.place)
    platform.pipelines.update(owner, replace(left.pipeline, team=left.team.id))
    for call in (
        lambda a: platform.pipelines.get(a, left.pipeline.id),
        lambda a: platform.runs.get(a, left.run),
        lambda a: platform.runs.logs(a, left.run),
        lambda a: platform.positions.rejects(a, left.pipeline.id),
        lambda a: platform.teams.get(a, left.team.id),
        lambda a: platform.teams.members(a, left.team.id),
    ):
        with pytest.raises(AuthError):
            call(mate)
        call(chief_here)
        call(owner)
    assert platform.pipelines.list(mate) == platform.runs.list(mate) == []
    for name in (platform.pipelines.by_name, platform.teams.by_name):
        with pytest.raises(NotFoundError):
            name(mate, "p" if name == platform.pipelines.by_name else "team")
    for change in (
        lambda a: platform.runs.trigger(a, left.pipeline.id),
        lambda a: platform.runs.cancel(a, left.run),
        lambda a: platform.pipelines.delete(a, left.pipeline.id),
        lambda a: platform.teams.update(a, left.team.id, {"description": "x"}),
        lambda a: platform.teams.add_members(a, left.team.id, [a.id]),
    ):
        for outsider in (mate, chief_here):
            with pytest.raises(AuthError):
                change(outsider)
    platform.teams.add_members(owner, left.team.id, [left.member.id])
    mate = platform.workspaces.enter(signed_in(left.member), owner.place)
    platform.runs.cancel(mate, left.run)
    platform.pipelines.delete(mate, left.pipeline.id)
    assert platform.runs.get(mate, left.run).pipeline_name == left.pipeline.name
    with pytest.raises(AuthError):
        platform.teams.update(mate, left.team.id, {"description": "x"})


def test_a_program_works_but_touches_no_people(platform: Platform, sides: Any) -> None:
    left = sides[0]
    _, text = platform.tokens.create(left.here, "robot")
    robot = platform.workspaces.enter(platform.sessions.authenticate(text), left.here.place)
    assert platform.pipelines.list(robot) == [left.pipeline]
    assert platform.teams.list(robot).total == 1
    for name, (operation, permission) in operations(platform).items():
        if permission in (
            Permission.PERSON, Permission.ADMINISTER, Permission.WORKSPACE_MANAGE, Permission.TEAM_WRITE,
        ):  # fmt: skip
            with pytest.raises(AuthError):
                attempt(operation, robot)
                pytest.fail(name)


def test_the_operator_of_this_machine_works_in_the_local_workspace(platform: Platform, sides: Any) -> None:
    assert platform.pipelines.list(OPERATOR) == []
    assert platform.workspaces.get(OPERATOR).name == "local"
    there = platform.workspaces.enter(OPERATOR, sides[0].here.place)
    assert platform.pipelines.list(there) == [sides[0].pipeline]


def test_whatever_changes_something_is_in_the_audit_log_without_a_secret(
    platform: Platform, sides: Any
) -> None:
    left = sides[0]
    settings = {"host": "other", "database": "d", "username": "u", "password": "canary-71f2"}
    platform.connections.update(left.here, left.source.id, {"name": "n", "settings": settings})
    entries = platform.audits.list(left.here)
    assert entries[0].action == "connections.update"
    assert (entries[0].actor, entries[0].object) == (left.owner.id, left.source.id)
    done = {entry.action for entry in entries}
    assert {"connections.create", "pipelines.create", "teams.create", "workspaces.add_member"} <= done
    assert "canary" not in repr(platform.audits.all(OPERATOR, limit=1000))
