"""People get in by token or cookie, and out for good; links go by mail."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiosmtpd.smtp import AuthResult
from argon2 import PasswordHasher

from headrace.control import limit, password
from headrace.control.access import OPERATOR
from headrace.control.mail import Mailer
from headrace.control.platform import Platform
from headrace.control.settings import Settings
from headrace.errors import AuthError, ConfigError, ConflictError, NotFoundError, SignInNeeded, TooMany
from headrace.model.workspace import LOCAL
from headrace.store import Store
from tests.integration.people import OTHER, WORD, Inbox, Smtp, bearer, delivered, refused
from tests.integration.tenants import add_user, signed_in
from tests.integration.test_store_connections import dump


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
    assert token not in dump(store_url)
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
    mailing: tuple[Platform, Inbox], make: Callable[..., Platform], store_url: str
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
    assert inbox.link() not in dump(store_url)
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
