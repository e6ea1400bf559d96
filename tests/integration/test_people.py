"""People get in, are let into workspaces, and get out for good."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope
from argon2 import PasswordHasher

from headrace.control import limit, password
from headrace.control.access import OPERATOR, Actor
from headrace.control.mail import Mailer
from headrace.control.platform import Platform
from headrace.control.settings import Settings
from headrace.errors import AuthError, ConfigError, ConflictError, NotFoundError, SignInNeeded, TooMany
from headrace.model.workspace import LOCAL, Role
from headrace.store import MasterKeys, Store
from tests.cli import Cli, in_process
from tests.integration.tenants import add_user, platform_of, signed_in
from tests.integration.test_store_connections import dump

WORD = "canary-pass-4d1e"
OTHER = "canary-pass-77aa"


@pytest.fixture
def make(store: Store, tmp_path: Path) -> Iterator[Callable[..., Platform]]:
    made: list[Platform] = []

    def platform(**environ: Any) -> Platform:
        made.append(platform_of(store, tmp_path, {"HEADRACE_REGISTRATION": "open"} | environ))
        return made[-1]

    yield platform
    for each in made:
        each.mailer.close()


@pytest.fixture
def platform(make: Callable[..., Platform]) -> Platform:
    """Registration is open."""
    return make()


def bearer(platform: Platform, email: str, word: str = WORD) -> tuple[str, Actor]:
    text = platform.sessions.login(email, word).token
    return text, platform.sessions.authenticate(text)


def refused(platform: Platform, text: str) -> bool:
    try:
        platform.sessions.authenticate(text)
    except SignInNeeded as error:
        assert error.http_status == 401
        return True
    return False


# In and out


def test_who_registers_signs_in_and_sees_an_empty_room(platform: Platform) -> None:
    user = platform.sessions.register("Jane@Company.LOCAL", WORD)
    assert (user.email, user.admin, user.verified) == ("Jane@company.local", False, False)
    text, actor = bearer(platform, "jane@company.local")
    claims = jwt.decode(text, options={"verify_signature": False})
    assert set(claims) == {"sub", "aud", "exp", "iat", "jti", "ver", "token_type"}
    assert (claims["sub"], claims["aud"], claims["exp"] - claims["iat"]) == (
        user.id, ["fastapi-users:auth"], 24 * 3600,
    )  # fmt: skip
    assert platform.workspaces.list(actor).items == []
    own = platform.workspaces.own(actor)
    assert platform.workspaces.get(own).name == "Jane"
    assert platform.workspaces.own(actor).place == own.place
    assert platform.users.get(actor, user.id).workspace == own.place
    assert platform.pipelines.list(own) == []
    assert [u.id for u in platform.users.list(actor).items] == [user.id]
    with pytest.raises(NotFoundError):
        platform.workspaces.enter(actor, LOCAL)


def test_registration_is_closed_unless_it_is_open(
    store: Store, tmp_path: Path, make: Callable[..., Platform]
) -> None:
    for rule, loopback, allowed in (
        ({}, True, True), ({}, False, False),
        ({"HEADRACE_REGISTRATION": "closed"}, True, False), ({"HEADRACE_REGISTRATION": "open"}, False, True),
    ):  # fmt: skip
        platform = Platform(store, tmp_path, rule, loopback=loopback)
        assert platform.sessions.registration is allowed
        platform.mailer.close()
    with pytest.raises(AuthError) as raised:
        make(HEADRACE_REGISTRATION="closed").sessions.register("a@b.co", WORD)
    assert raised.value.code == "sessions.closed"


def test_an_address_is_registered_once_whatever_its_case(platform: Platform, store: Store) -> None:
    add_user(store, "a@b.co")
    with pytest.raises(ConflictError) as raised:
        platform.sessions.register("A@B.CO", WORD)
    assert raised.value.code == "store.email_taken"
    for bad in ("", "a", "a@", "@b", "a b@c.d", "a@b\r\nBcc: x@y.z", "a@b..c", "a@-b"):
        with pytest.raises(ConfigError) as wrong:
            platform.sessions.register(bad, WORD)
        assert wrong.value.code == "users.email", bad
    with pytest.raises(ConfigError) as weak:
        platform.sessions.register("c@b.co", "short")
    assert weak.value.code == "password.weak"


def test_every_refused_login_gets_one_answer(platform: Platform, store: Store) -> None:
    platform.sessions.register("a@b.co", WORD)
    user = platform.sessions.register("off@b.co", WORD)
    add_user(store, "none@b.co")
    store.users.update(user.id, active=False)
    answers = set()
    for email, word in (("a@b.co", OTHER), ("off@b.co", WORD), ("none@b.co", WORD), ("who@b.co", WORD)):
        with pytest.raises(AuthError) as raised:
            platform.sessions.login(email, word)
        answers.add(json.dumps(raised.value.as_dict()))
    assert len(answers) == 1
    assert WORD not in answers.pop()


def test_an_unknown_user_costs_one_hash_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed, compared = password.hash(WORD), []
    real = type(password._argon2()).verify_and_update

    def counted(self: Any, given: str, known: str) -> Any:
        compared.append(known)
        return real(self, given, known)

    monkeypatch.setattr(type(password._argon2()), "verify_and_update", counted)
    assert password.matches(WORD, hashed) == (True, None)
    assert password.matches(WORD, None) == (False, None)
    parameters = [text.split("$")[1:4] for text in compared]
    assert len(compared) == 2
    assert parameters[0] == parameters[1]
    assert parameters[0][0] == "argon2id"


def test_a_hash_of_other_parameters_is_made_anew_at_login(platform: Platform, store: Store) -> None:
    user = platform.sessions.register("a@b.co", WORD)
    old = PasswordHasher(time_cost=1, memory_cost=64).hash(WORD)
    store.users.update(user.id, password=old)
    text, _ = bearer(platform, "a@b.co")
    found = store.users.password("a@b.co")
    assert found
    assert found[1] != old
    assert not refused(platform, text)  # a better hash is not another password
    bearer(platform, "a@b.co")


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_token_is_believed_only_whole_signed_in_time_and_for_us(platform: Platform, tmp_path: Path) -> None:
    user = platform.sessions.register("a@b.co", WORD)
    text, _ = bearer(platform, "a@b.co")
    key = base64.b64decode((tmp_path / "signing.key").read_text())
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600
    good = jwt.decode(text, key, algorithms=["HS256"], audience="fastapi-users:auth")

    def sign(alter: dict[str, Any], algorithm: str = "HS256", key: Any = key) -> str:
        claims = {k: v for k, v in (good | alter).items() if v is not None}
        return jwt.encode(claims, key, algorithm=algorithm)

    assert not refused(platform, sign({}))
    bad = [
        "", "x", text[:-4], f"{text}x", sign({}, "none", ""), sign({}, "HS512"), sign({}, key=b"0" * 32),
        sign({"aud": ["other"]}), sign({"exp": int(time.time()) - 1}), sign({"exp": None}),
        sign({"jti": None}), sign({"ver": 9}), sign({"sub": "someone"}), sign({"token_type": "service"}),
    ]  # fmt: skip
    assert [each for each in bad if not refused(platform, each)] == []
    platform.users.delete(OPERATOR, user.id)
    assert refused(platform, text)


def test_who_signs_out_is_out_and_stays_out_after_a_restart(
    make: Callable[..., Platform], platform: Platform
) -> None:
    platform.sessions.register("a@b.co", WORD)
    text, actor = bearer(platform, "a@b.co")
    other, _ = bearer(platform, "a@b.co")
    platform.sessions.logout(actor)
    again = make()
    assert refused(platform, text)
    assert refused(again, text)
    assert not refused(again, other)


def test_a_new_password_ends_all_tokens_but_the_one_that_asked(platform: Platform) -> None:
    platform.sessions.register("a@b.co", WORD)
    text, actor = bearer(platform, "a@b.co")
    other, _ = bearer(platform, "a@b.co")
    cookie = platform.sessions.login_by_cookie("a@b.co", WORD).token
    with pytest.raises(AuthError) as raised:
        platform.users.change_password(actor, OTHER, OTHER)
    assert raised.value.code == "users.wrong_password"
    platform.users.change_password(actor, WORD, OTHER)
    assert not refused(platform, text)
    assert refused(platform, other)
    with pytest.raises(SignInNeeded):
        platform.sessions.authenticate_cookie(cookie)
    with pytest.raises(AuthError):
        platform.sessions.login("a@b.co", WORD)
    newer, actor = bearer(platform, "a@b.co", OTHER)
    platform.users.update(actor, actor.id, {"password": WORD})
    assert refused(platform, text)
    assert not refused(platform, newer)


def test_a_user_who_is_disabled_is_out_at_once(platform: Platform) -> None:
    user = platform.sessions.register("a@b.co", WORD)
    text, actor = bearer(platform, "a@b.co")
    cookie = platform.sessions.login_by_cookie("a@b.co", WORD).token
    assert platform.sessions.authenticate_cookie(cookie).id == user.id
    _, program = platform.tokens.create(actor, "ci")
    platform.users.update(OPERATOR, user.id, {"active": False})
    assert refused(platform, text)
    assert refused(platform, program)
    platform.users.update(OPERATOR, user.id, {"active": True})
    assert refused(platform, text)
    with pytest.raises(SignInNeeded):
        platform.sessions.authenticate_cookie(cookie)


def test_a_cookie_is_random_and_only_its_hash_is_kept(
    platform: Platform, store: Store, store_url: str
) -> None:
    platform.sessions.register("a@b.co", WORD)
    entry = platform.sessions.login_by_cookie("a@b.co", WORD)
    text, actor = bearer(platform, "a@b.co")
    _, program = platform.tokens.create(actor, "ci")
    kept = dump(store_url)
    for secret in (entry.token, text, program, WORD):
        assert len(secret) >= len(WORD)
        assert secret not in kept
    assert entry.token not in repr(entry)
    by_cookie = platform.sessions.authenticate_cookie(entry.token)
    platform.sessions.logout(by_cookie)
    with pytest.raises(SignInNeeded):
        platform.sessions.authenticate_cookie(entry.token)
    assert not refused(platform, text)


def test_a_service_token_ends_when_it_is_revoked(platform: Platform, store: Store) -> None:
    platform.sessions.register("a@b.co", WORD)
    _, actor = bearer(platform, "a@b.co")
    kept, text = platform.tokens.create(actor, "ci", 30)
    assert (kept.expires_at - kept.created_at).days == 30
    assert platform.tokens.list(actor) == [kept]
    assert not refused(platform, text)
    with pytest.raises(NotFoundError):
        platform.tokens.revoke(signed_in(add_user(store, "x@b.co")), kept.id)
    platform.tokens.revoke(actor, kept.id)
    assert refused(platform, text)
    for days in (0, 366):
        with pytest.raises(ConfigError):
            platform.tokens.create(actor, "ci", days)


def test_guessing_is_slowed_down_by_account_and_by_address(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(password, "matches", lambda given, known: (False, None))  # so that it costs no hash
    for _ in range(limit.LOGINS_OF_ONE.amount):
        with pytest.raises(AuthError):
            platform.sessions.login("a@b.co", WORD, address="1.2.3.4")
    with pytest.raises(TooMany) as raised:
        platform.sessions.login("A@B.CO", WORD, address="1.2.3.4")
    assert raised.value.http_status == 429
    assert 1 <= raised.value.retry_after <= 300
    with pytest.raises(AuthError):  # the account's owner, elsewhere, is not locked out
        platform.sessions.login("a@b.co", WORD, address="5.6.7.8")
    with pytest.raises(TooMany):
        for number in range(limit.LOGINS_FROM_ONE.amount):
            with pytest.raises(AuthError):
                platform.sessions.login(f"u{number}@b.co", WORD, address="1.2.3.4")


# Mail


class Smtp(Controller):
    """On a port that the system chooses; the one of aiosmtpd tries the number that it was given."""

    def _trigger_server(self) -> None:
        assert self.server
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


class Inbox:
    def __init__(self) -> None:
        self.letters: list[tuple[str, Any]] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        self.letters.append((envelope.rcpt_tos[0], message_from_bytes(content)))
        return "250 OK"

    def link(self, number: int = -1) -> str:
        """The token of the link in a letter."""
        text: str = self.letters[number][1].get_payload(decode=True).decode()
        return text.partition("?token=")[2].strip()


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, int]]:
    inbox = Inbox()
    controller = Smtp(inbox, hostname="127.0.0.1", port=0)
    controller.start()
    yield inbox, controller.port
    controller.stop()


@pytest.fixture
def mailing(inbox: tuple[Inbox, int], make: Callable[..., Platform]) -> tuple[Platform, Inbox]:
    platform = make(
        HEADRACE_SMTP_HOST="127.0.0.1", HEADRACE_SMTP_PORT=str(inbox[1]), HEADRACE_SMTP_SECURITY="none"
    )
    return platform, inbox[0]


def delivered(platform: Platform) -> None:
    """Wait until the letters so far are on their way."""
    platform.mailer._queue.submit(lambda: None).result(60)


def test_a_forgotten_password_is_set_anew_by_mail_once(
    mailing: tuple[Platform, Inbox], store_url: str
) -> None:
    platform, inbox = mailing
    platform.sessions.register("a@b.co", WORD)
    text, _ = bearer(platform, "a@b.co")
    platform.sessions.forgot("who@b.co")
    platform.sessions.forgot("A@b.co")
    delivered(platform)
    assert [to for to, _ in inbox.letters] == ["a@b.co"]
    token = inbox.link()
    assert token not in dump(store_url)
    with pytest.raises(ConfigError):
        platform.sessions.reset(token, "short")
    platform.sessions.reset(token, OTHER)
    assert refused(platform, text)
    bearer(platform, "a@b.co", OTHER)
    for used in (token, "x", ""):
        with pytest.raises(AuthError) as raised:
            platform.sessions.reset(used, WORD)
        assert raised.value.code == "sessions.bad_token"


def test_a_reset_link_dies_with_the_password_it_was_made_for(mailing: tuple[Platform, Inbox]) -> None:
    platform, inbox = mailing
    platform.sessions.register("a@b.co", WORD)
    _, actor = bearer(platform, "a@b.co")
    platform.sessions.forgot("a@b.co")
    delivered(platform)
    platform.users.change_password(actor, WORD, OTHER)
    with pytest.raises(AuthError):
        platform.sessions.reset(inbox.link(), WORD)


def test_links_end_by_themselves(mailing: tuple[Platform, Inbox], store: Store) -> None:
    platform, _ = mailing
    user = add_user(store, "a@b.co")
    from headrace.control import token

    store.tokens.add_once(user.id, "reset", token.hash("old"), datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(AuthError):
        platform.sessions.reset("old", WORD)


def test_an_address_is_verified_by_mail(
    mailing: tuple[Platform, Inbox], make: Callable[..., Platform]
) -> None:
    platform, inbox = mailing
    platform.sessions.register("a@b.co", WORD)
    strict = make(HEADRACE_LOGIN_NEEDS_VERIFICATION="true")
    with pytest.raises(AuthError) as raised:
        strict.sessions.login("a@b.co", WORD)
    assert raised.value.code == "sessions.not_verified"
    platform.sessions.request_verification("a@b.co")
    delivered(platform)
    with pytest.raises(AuthError):
        platform.sessions.reset(inbox.link(), WORD)  # one kind of link is not another
    assert platform.sessions.verify(inbox.link()).verified
    assert strict.sessions.login("a@b.co", WORD)
    with pytest.raises(AuthError):
        platform.sessions.verify(inbox.link())
    platform.sessions.request_verification("a@b.co")
    delivered(platform)
    assert len(inbox.letters) == 1


def test_mail_is_sent_under_tls_with_a_name_and_a_password(tmp_path: Path) -> None:
    seen: list[Any] = []

    def authenticate(_server: Any, _session: Any, _envelope: Any, mechanism: str, data: Any) -> AuthResult:
        seen.append((mechanism, data.login, data.password))
        return AuthResult(success=True)

    settings = Settings(
        smtp_host="127.0.0.1",
        smtp_user="me",
        smtp_password=WORD,
        smtp_security="starttls",  # type: ignore[arg-type]
    )
    inbox = Inbox()
    controller = Smtp(
        inbox, hostname="127.0.0.1", port=0, authenticator=authenticate, auth_require_tls=False,
        tls_context=None,
    )  # fmt: skip
    controller.start()
    port = controller.port
    try:
        mailer = Mailer(settings.model_copy(update={"smtp_port": port}))
        refusal = mailer.send("a@b.co", "s", "t").exception(60)
        assert "canary" not in repr(refusal)
        assert refusal is not None  # this server has no TLS: nothing is sent in the open
        assert (inbox.letters, seen) == ([], [])
        mailer.close()
        mailer = Mailer(settings.model_copy(update={"smtp_port": port, "smtp_security": "none"}))
        mailer.send("a@b.co", "s", "t").result(60)
        mailer.close()
    finally:
        controller.stop()
    assert seen[0][1:] == (b"me", WORD.encode())
    assert inbox.letters[0][1]["Subject"] == "s"


# Workspaces, teams, users


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
