"""Workspaces, teams and users: who may leave, who is let in, what is sealed; and their commands."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.control.access import OPERATOR, Actor
from headrace.control.platform import Platform
from headrace.errors import AuthError, ConfigError, ConflictError, NotFoundError
from headrace.model.workspace import LOCAL, Role
from headrace.store import MasterKeys, Store
from tests.cli import Cli, in_process
from tests.integration.people import OTHER, WORD, Inbox, bearer, delivered
from tests.integration.tenants import add_user, signed_in
from tests.integration.test_store_connections import dump


def test_a_guest_joins_by_invitation_although_registration_is_closed(
    mailing: tuple[Platform, Inbox], make: Callable[..., Platform], store: Store
) -> None:
    platform, inbox = mailing
    closed = make(HEADRACE_REGISTRATION="closed")
    owner = signed_in(add_user(store, "o@b.co"))
    here = platform.workspaces.enter(owner, platform.workspaces.create(owner, "ours").id)
    invitation, link = platform.workspaces.invite(here, "guest@b.co", Role.VIEWER)
    delivered(platform)
    assert link is None
    assert inbox.letters[0][0] == "guest@b.co"
    assert platform.workspaces.invitations(here) == [invitation]
    with pytest.raises(ConfigError):
        closed.sessions.accept_invitation(inbox.link(), "short")
    guest = closed.sessions.accept_invitation(inbox.link(), WORD)
    assert guest.workspace == here.place
    _, actor = bearer(closed, "guest@b.co")
    assert closed.workspaces.enter(actor, here.place).role is Role.VIEWER
    with pytest.raises(AuthError):
        closed.sessions.accept_invitation(inbox.link(), WORD)
    again, link = closed.workspaces.invite(here, "late@b.co", Role.MEMBER)
    assert link
    closed.workspaces.withdraw(here, again.id)
    with pytest.raises(AuthError):
        closed.sessions.accept_invitation(link.partition("token=")[2], WORD)


def test_the_last_owner_of_a_workspace_stays(platform: Platform, store: Store) -> None:
    user, mate = add_user(store, "o@b.co"), add_user(store, "m@b.co")
    here = platform.workspaces.enter(signed_in(user), platform.workspaces.create(signed_in(user), "w").id)
    platform.workspaces.add_member(here, mate.email, Role.MEMBER)
    for change in (
        lambda: platform.workspaces.remove_member(here, user.id),
        lambda: platform.workspaces.set_role(here, user.id, Role.VIEWER),
    ):
        with pytest.raises(ConflictError) as raised:
            change()
        assert raised.value.code == "store.last_owner"
    with pytest.raises(ConflictError) as raised:
        platform.users.delete(OPERATOR, user.id)
    assert raised.value.code == "users.sole_owner"
    platform.workspaces.set_role(here, mate.id, Role.OWNER)
    assert [m.role for m in platform.workspaces.members(here).items] == [Role.OWNER, Role.OWNER]
    platform.workspaces.remove_member(here, user.id)
    with pytest.raises(NotFoundError):
        platform.workspaces.enter(signed_in(user), here.place)
    assert store.users.get(user.id).workspace is None


def test_the_last_administrator_stays(platform: Platform, store: Store) -> None:
    first = platform.users.create(OPERATOR, "a@b.co", WORD, admin=True)
    for change in (
        lambda: platform.users.delete(OPERATOR, first.id),
        lambda: platform.users.update(OPERATOR, first.id, {"admin": False}),
        lambda: platform.users.update(OPERATOR, first.id, {"active": False}),
    ):
        with pytest.raises(ConflictError) as raised:
            change()
        assert raised.value.code == "store.last_admin"
    second = add_user(store, "b@b.co", admin=True)
    platform.users.delete(signed_in(second), first.id)


def test_the_environment_may_name_the_first_administrator(make: Callable[..., Platform]) -> None:
    assert make().users.bootstrap(OPERATOR) is None
    platform = make(HEADRACE_ADMIN_EMAIL="me@b.co", HEADRACE_ADMIN_PASSWORD=WORD)
    first = platform.users.bootstrap(OPERATOR)
    assert first == platform.users.bootstrap(OPERATOR)
    assert bearer(platform, "me@b.co")[1].admin
    assert WORD not in repr(platform.settings)


def test_nobody_makes_themselves_more_than_they_are(platform: Platform, store: Store) -> None:
    user = add_user(store, "a@b.co")
    actor = signed_in(user)
    for change in ({"admin": True}, {"verified": True}, {"active": False}):
        with pytest.raises(AuthError):
            platform.users.update(actor, user.id, change)  # type: ignore[arg-type]
    assert store.users.get(user.id) == user
    moved = platform.users.update(actor, user.id, {"email": "New@B.co"})
    assert (moved.email, moved.verified) == ("New@b.co", False)


def test_a_team_has_owners_and_ends_with_its_last_member(platform: Platform, store: Store) -> None:
    user, mate = add_user(store, "o@b.co"), add_user(store, "m@b.co")
    id = platform.workspaces.create(signed_in(user), "w").id

    def here(who: Any = user) -> Actor:
        return platform.workspaces.enter(signed_in(who), id)

    team = platform.teams.create(here(), "data")
    with pytest.raises(ConflictError):
        platform.teams.create(here(), "data")
    with pytest.raises(NotFoundError):
        platform.teams.add_members(here(), team.id, [mate.id, "nobody"])
    assert platform.teams.members(here(), team.id).total == 1
    platform.teams.add_members(here(), team.id, [mate.id, user.id])
    assert here(mate).role is Role.MEMBER
    assert store.users.get(mate.id).workspace == id
    assert [m.owner for m in platform.teams.members(here(), team.id).items] == [True, False]
    with pytest.raises(ConflictError) as raised:
        platform.teams.remove_member(here(), team.id, user.id)
    assert raised.value.code == "store.last_owner"
    membership = platform.teams.member(here(), team.id, mate.id)
    assert not platform.teams.remove_member(here(mate), team.id, membership.id)
    assert platform.teams.remove_member(here(), team.id, user.id)
    assert platform.teams.list(here()).total == 0


def test_a_workspace_is_named_once_by_each_who_is_in_it(platform: Platform, store: Store) -> None:
    one, two = signed_in(add_user(store, "a@b.co")), signed_in(add_user(store, "b@b.co"))
    mine = platform.workspaces.create(one, "prod")
    platform.workspaces.create(two, "prod")  # whose names are nobody else's business
    with pytest.raises(ConflictError):
        platform.workspaces.create(one, "prod")
    here = platform.workspaces.enter(one, mine.id)
    assert platform.workspaces.update(here, {"description": "d"}).description == "d"
    assert platform.workspaces.by_name(one, "prod").description == "d"
    platform.workspaces.delete(here)
    assert platform.workspaces.list(one).total == 0


def test_lists_are_cut_and_searched(platform: Platform, store: Store) -> None:
    actor = signed_in(add_user(store, "a@b.co", admin=True))
    for name in ("al_ha", "alpha", "beta"):
        platform.workspaces.create(actor, name)
    page = platform.workspaces.list(actor, search="L_H")
    assert ([w.name for w in page.items], page.total) == (["al_ha"], 1)
    page = platform.workspaces.list(actor, offset=2, limit=1)
    assert ([w.name for w in page.items], page.total) == (["alpha"], 4)  # `local` is the oldest
    assert platform.users.list(actor, search="A@").total == 1


def test_everybody_is_carried_away_and_brought_back(platform: Platform, store: Store) -> None:
    from tests.integration.tenants import tenant

    admin = add_user(store, "admin@b.co", admin=True)
    left = tenant(platform, store, "left")
    platform.sessions.register("word@b.co", WORD)
    actor = signed_in(admin)
    whole = platform.users.export(actor)
    assert "argon2" not in repr(whole)
    platform.users.replace_all(actor, whole)
    again = platform.users.export(actor)
    assert (again.users, again.workspaces, again.teams) == (whole.users, whole.workspaces, whole.teams)
    assert {(m.user, m.workspace, m.role) for m in again.members} == {
        (m.user, m.workspace, m.role) for m in whole.members
    }
    bearer(platform, "word@b.co")
    bad: list[Any] = [
        replace(whole, team_members=(*whole.team_members, replace(whole.team_members[0], user="nobody"))),
        replace(whole, users=(*whole.users, replace(whole.users[0], id="other"))),
        replace(whole, workspaces=(), teams=(), members=(), team_members=()),
    ]
    for each in bad:
        with pytest.raises((ConfigError, ConflictError)):
            platform.users.replace_all(actor, each)
    assert platform.users.export(actor) == again
    platform.runs.cancel(left.here, left.run)
    platform.pipelines.delete(left.here, left.pipeline.id)
    for connection in (left.source, left.target):
        platform.connections.delete(left.here, connection.id)
    new = replace(whole.users[1], id="00000000-0000-4000-8000-00000000000a", email="New@b.co", admin=True)
    known = next(user for user in whole.users if user.email == "word@b.co")
    renamed = replace(known, id="00000000-0000-4000-8000-00000000000b", workspace=None)
    less = replace(whole, users=(new, renamed), workspaces=(), teams=(), members=(), team_members=())
    less = replace(less, users=(replace(new, workspace=None), renamed))
    platform.users.replace_all(actor, less)
    assert {user.email for user in platform.users.export(actor).users} == {
        "admin@b.co", "New@b.co", "word@b.co",
    }  # fmt: skip
    assert store.users.get(admin.id) == replace(admin, workspace=None)
    assert bearer(platform, "word@b.co")[1].id == known.id
    assert [w.id for w in platform.workspaces.list(actor).items] == [LOCAL]
    with pytest.raises(AuthError):
        platform.sessions.login("New@b.co", WORD)


# Secrets


def test_a_kept_secret_goes_to_no_other_place(platform: Platform, store: Store) -> None:
    from headrace.connector import HIDDEN
    from headrace.model.connection import Connection

    settings = {"host": "h", "database": "d", "username": "u", "password": WORD}
    draft = Connection(id="", name="n", connector="postgres")
    made = platform.connections.create(OPERATOR, draft, settings)
    assert made.secrets == ("password",)
    kept = platform.connections.update(OPERATOR, made.id, {"settings": settings | {"password": HIDDEN}})
    assert store.connections.settings(made.id)["password"] == WORD
    for other in ({"host": "evil"}, {"username": "x"}, {"port": 1}):
        with pytest.raises(ConfigError) as raised:
            platform.connections.update(
                OPERATOR, made.id, {"settings": settings | {"password": HIDDEN} | other}
            )
        assert (raised.value.code, raised.value.field) == ("connections.secret_again", "password")
    platform.connections.update(OPERATOR, made.id, {"settings": settings | {"host": "new"}})
    bare = {k: v for k, v in settings.items() if k != "password"}
    assert platform.connections.update(OPERATOR, made.id, {"settings": bare}).secrets == ()
    with pytest.raises(ConfigError) as raised:
        platform.connections.update(OPERATOR, made.id, {"settings": settings | {"password": HIDDEN}})
    assert raised.value.code == "connections.no_secret"
    stars = platform.connections.create(OPERATOR, replace(draft, name="s"), settings | {"password": HIDDEN})
    moved = settings | {"password": HIDDEN, "host": "new"}
    platform.connections.update(OPERATOR, stars.id, {"settings": moved})
    with pytest.raises(ConfigError):
        platform.connections.create(OPERATOR, replace(draft, name="t"), settings | {"misspelt": 1})
    assert kept.version == 2


def test_secrets_of_two_workspaces_are_sealed_apart(platform: Platform, store: Store, store_url: str) -> None:
    from headrace.model.connection import Connection

    owner = signed_in(add_user(store, "o@b.co"))
    here = platform.workspaces.enter(owner, platform.workspaces.create(owner, "w").id)
    settings = {"host": "h", "database": "d", "username": "u", "password": WORD}
    made = platform.connections.create(here, Connection(id="", name="n", connector="postgres"), settings)
    assert store.within(here.place).connections.settings(made.id)["password"] == WORD
    with pytest.raises(NotFoundError):
        store.connections.settings(made.id)
    assert platform.keys.rotate(OPERATOR) == 0
    assert WORD not in dump(store_url)


# The command line


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    return in_process(capsys)


def test_the_command_line_makes_administrators_and_members(cli: Cli, tmp_path: Path) -> None:
    folder = ("--data", str(tmp_path / "d"))
    assert cli("admin", "list", *folder).code == 0
    assert not (tmp_path / "d").exists()
    made = cli("admin", "create", "--email", "me@b.co", "--password", WORD, "--json", *folder)
    assert made.document["users"][0]["admin"] is True
    assert cli("admin", "create", "--email", "me@b.co", "--password", WORD, *folder).code == 9
    short = cli("admin", "create", "--email", "a@b.co", "--password", "s", *folder)
    assert (short.code, "password.weak" in short.err) == (3, True)
    assert cli("admin", "create", "--email", "a@b.co", *folder).code == 64
    (row,) = cli("workspace", "list", "--json", *folder).document["workspaces"]
    assert (row["id"], row["name"]) == (LOCAL, "local")
    add = ("member", "add", "--workspace", LOCAL, "--email", "v@b.co", "--role", "viewer", *folder)
    assert cli(*add).code == 5
    assert cli(*add, "--password", WORD).code == 0
    assert cli(*add).code == 0
    assert cli("member", "add", "--workspace", "x", *add[4:]).code == 5
    rows = cli("member", "list", LOCAL, "--json", *folder).document["members"]
    assert [(row["email"], row["role"]) for row in rows] == [("v@b.co", "viewer")]
    link = cli("admin", "reset", "--email", "v@b.co", "--json", *folder).document["links"][0]["link"]
    platform = Platform.open(tmp_path / "d", {})
    platform.sessions.reset(link.partition("token=")[2], OTHER)
    _, actor = bearer(platform, "v@b.co", OTHER)
    assert platform.workspaces.enter(actor, LOCAL).role is Role.VIEWER
    platform.close()


def test_the_command_line_rotates_the_master_key(cli: Cli, tmp_path: Path) -> None:
    from headrace.model.connection import Connection

    folder = tmp_path / "d"
    platform = Platform.open(folder, {})
    settings = {"host": "h", "database": "d", "username": "u", "password": WORD}
    made = platform.connections.create(OPERATOR, Connection(id="", name="n", connector="postgres"), settings)
    platform.close()
    key = folder / "master.key"
    new = base64.b64encode(bytes(range(32))).decode()
    key.write_text(f"{new}\n{key.read_text()}")
    assert cli("key", "rotate", "--json", "--data", str(folder)).document["keys"] == [{"sealed_again": 1}]
    key.write_text(new)
    with Store.open(f"sqlite:///{folder}/headrace.db", keys=MasterKeys.load(folder, {})) as store:
        assert store.connections.settings(made.id)["password"] == WORD
