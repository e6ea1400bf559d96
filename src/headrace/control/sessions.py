"""How people get in and out: registration, tokens and cookies, forgotten passwords, verified addresses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from headrace.control import limit, password, token
from headrace.control.access import Actor, Guarded, Kind, Permission, needs
from headrace.control.limit import Limits
from headrace.control.mail import Letter, Mailer
from headrace.control.settings import Settings
from headrace.control.token import Claims, SigningKeys, not_good
from headrace.errors import AuthError, ConfigError, ConflictError, NotFoundError
from headrace.model.user import Session, User
from headrace.store import Store

RESET_LIFE = timedelta(hours=1)
VERIFY_LIFE = timedelta(days=1)

_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What lets a user in from now on: a bearer token or the value of a cookie, shown this once."""

    user: User
    token: str = field(repr=False)
    expires_at: datetime

    @property
    def id(self) -> str:
        return self.user.id


class Sessions(Guarded):
    """`address`, where given, is that of the client, for the limits."""

    def __init__(
        self, store: Store, settings: Settings, keys: SigningKeys, mailer: Mailer, *, registration: bool
    ):
        super().__init__(store)
        self._settings = settings
        self._keys = keys
        self._mailer = mailer
        self._limits = Limits()
        self.registration = registration

    @needs(Permission.ANYONE, changes=True)
    def register(self, email: str, password: str, *, address: str | None = None) -> User:
        """A new user who is no administrator and sees nothing of anyone else's.

        Raises AuthError (`sessions.closed`) where registration is closed, ConfigError
        (`password.weak`, `users.email`), ConflictError (`store.email_taken`), TooMany.
        """
        if not self.registration:
            raise AuthError(
                "sessions.closed",
                "registration is closed on this installation",
                remedy="Ask an administrator for an account or an invitation.",
            )
        self._limits.count(limit.REGISTRATIONS_FROM_ONE, address)
        return new_user(self._store, self._settings, email, password)

    @needs(Permission.ANYONE, changes=True)
    def login(self, email: str, password: str, *, address: str | None = None) -> Entry:
        """A bearer token. Raises AuthError (`sessions.bad_credentials`), the same for every refusal, or
        (`sessions.not_verified`) where that is asked for, or TooMany."""
        user = self._known(email, password, address)
        ends = datetime.now(UTC) + self._settings.token_life
        claims = Claims(user=user.id, id=token.new_id(), version=user.version, expires_at=ends)
        return Entry(user=user, token=self._keys.sign(claims), expires_at=ends)

    @needs(Permission.ANYONE, changes=True)
    def login_by_cookie(self, email: str, password: str, *, address: str | None = None) -> Entry:
        """As `login`, with a random value for a cookie in place of a token."""
        user = self._known(email, password, address)
        text, now = token.random_text(), datetime.now(UTC)
        ends = now + self._settings.session_life
        session = Session(id=token.new_id(), user=user.id, created_at=now, expires_at=ends)
        self._store.tokens.open_session(session, token.hash(text))
        return Entry(user=user, token=text, expires_at=ends)

    @needs(Permission.ANYONE)
    def authenticate(self, token_text: str) -> Actor:
        """Who a bearer token belongs to, a person's or a program's. Raises SignInNeeded."""
        claims = self._keys.read(token_text)
        user = self._active(claims.user)
        if claims.service:
            if self._store.tokens.service(claims.id, token.hash(token_text)) is None:
                raise not_good()
            return actor(user, Kind.SERVICE, claims.id)
        if claims.version != user.version and claims.id != user.kept:
            raise not_good()
        if self._store.tokens.revoked(claims.id):
            raise not_good()
        return actor(user, Kind.USER, claims.id)

    @needs(Permission.ANYONE)
    def authenticate_cookie(self, value: str) -> Actor:
        """Who a cookie belongs to. Raises SignInNeeded."""
        session = self._store.tokens.session(token.hash(value))
        if session is None:
            raise not_good()
        return actor(self._active(session.user), Kind.USER, session.id)

    @needs(Permission.PERSON, changes=True)
    def logout(self, actor: Actor) -> None:
        """The token or cookie that the actor came with is good no more."""
        if actor.token is None:
            return
        self._store.tokens.close_session(actor.token)
        self._store.tokens.revoke(actor.token, datetime.now(UTC) + self._settings.token_life)

    @needs(Permission.ANYONE)
    def forgot(self, email: str, *, address: str | None = None) -> None:
        """Send a link to set a new password, if there is such a user; nobody learns whether there is.

        Without a mail server nothing is sent: the operator makes the link with `headrace admin reset`.
        """
        self._limits.count(limit.LETTERS_FROM_ONE, address)
        self._limits.count(limit.LETTERS_TO_ONE, "reset", email.casefold())
        self._write(
            email, "reset", RESET_LIFE, "Set a new password",
            "Somebody, probably you, asked for a new password. Set it here within an hour:",
        )  # fmt: skip

    @needs(Permission.ANYONE, changes=True)
    def reset(self, token_text: str, password: str) -> User:
        """Set the password by a one-time token; everything that let the user in before dies.

        Raises AuthError (`sessions.bad_token`), ConfigError (`password.weak`): the token stays good then.
        """
        user = self._once("reset", token_text, take=False)
        hashed = _hashed(self._settings, user.email, password)
        self._once("reset", token_text, take=True)
        changed = self._store.users.renew(user.id, password=hashed)
        self._store.tokens.close_sessions(user.id)
        return changed

    @needs(Permission.ANYONE)
    def request_verification(self, email: str, *, address: str | None = None) -> None:
        """Send a link that proves the address, if there is such a user who has not done so."""
        self._limits.count(limit.LETTERS_FROM_ONE, address)
        self._limits.count(limit.LETTERS_TO_ONE, "verify", email.casefold())
        self._write(email, "verify", VERIFY_LIFE, "Verify your address", "Verify your address here:")

    @needs(Permission.ANYONE, changes=True)
    def verify(self, token_text: str) -> User:
        """Raises AuthError (`sessions.bad_token`), ConflictError (`sessions.verified`)."""
        user = self._once("verify", token_text, take=True)
        if user.verified:
            raise ConflictError("sessions.verified", "this address was verified already", remedy="Sign in.")
        return self._store.users.update(user.id, verified=True)

    @needs(Permission.ANYONE, changes=True)
    def accept_invitation(self, token_text: str, password: str) -> User:
        """Join a workspace by an invitation, as the user of that address or as a new one.

        Works where registration is closed; `password` is only for a new user. Raises AuthError
        (`sessions.bad_token`), ConfigError (`password.weak`).
        """
        hashed = token.hash(token_text)
        invitation = self._store.workspaces.invitation(hashed)
        if invitation is None:
            raise _bad_token()
        try:
            user = self._store.users.by_email(invitation.email)
        except NotFoundError:
            user = new_user(self._store, self._settings, invitation.email, password)
        if not self._store.workspaces.withdraw_taken(hashed):
            raise _bad_token()
        role = invitation.role
        self._store.workspaces.join(invitation.workspace, user.id, role, change=False)
        return self._store.users.get(user.id)

    @needs(Permission.ADMINISTER, changes=True)
    def reset_link(self, actor: Actor, email: str) -> str:
        """A one-time token to set a password with: for the operator of an installation without mail."""
        text = token.random_text()
        user = self._store.users.by_email(email)
        ends = datetime.now(UTC) + RESET_LIFE
        self._store.tokens.add_once(user.id, "reset", token.hash(text), ends)
        return f"{self._settings.public_url}/reset?token={text}"

    def _known(self, email: str, given: str, address: str | None) -> User:
        self._limits.count(limit.LOGINS_FROM_ONE, address)
        self._limits.count(limit.LOGINS_OF_ONE, email.casefold(), address or "")
        self._limits.count(limit.LOGINS_OF_ONE_ANYWHERE, email.casefold())
        found = self._store.users.password(email)
        user, hashed = found if found else (None, None)
        right, better = password.matches(given, hashed)
        if not right or user is None or not user.active:
            raise AuthError(
                "sessions.bad_credentials",
                "the address or the password is wrong",
                remedy="Try again, or ask for a new password.",
            )
        if self._settings.login_needs_verification and not user.verified:
            raise AuthError(
                "sessions.not_verified",
                "the address has not been verified yet",
                remedy="Follow the link in the mail.",
            )
        if better:
            self._store.users.update(user.id, password=better)
        return user

    def _active(self, id: str) -> User:
        try:
            user = self._store.users.get(id)
        except NotFoundError:
            raise not_good() from None
        if not user.active:
            raise not_good()
        return user

    def _write(self, email: str, purpose: str, life: timedelta, subject: str, words: str) -> None:
        def letter() -> Letter | None:
            found = self._store.users.password(email)
            if found is None or not found[0].active or (purpose == "verify" and found[0].verified):
                return None
            text, ends = token.random_text(), datetime.now(UTC) + life
            self._store.tokens.add_once(found[0].id, purpose, token.hash(text), ends)
            link = f"{self._settings.public_url}/{purpose}?token={text}"
            return Letter(found[0].email, f"Headrace: {subject}", f"{words}\n\n{link}\n")

        if self._mailer.able:
            self._mailer.write(letter)

    def _once(self, purpose: str, text: str, *, take: bool) -> User:
        id = self._store.tokens.once(purpose, token.hash(text), take=take)
        if id is None:
            raise _bad_token()
        try:
            return self._active(id)
        except AuthError:
            raise _bad_token() from None


def actor(user: User, kind: Kind, token_id: str | None) -> Actor:
    return Actor(kind=kind, id=user.id, email=user.email, admin=user.admin, token=token_id)


def new_user(store: Store, settings: Settings, email: str, password: str, *, admin: bool = False) -> User:
    """Raises ConfigError (`users.email`, `password.weak`), ConflictError (`store.email_taken`)."""
    email = address_of(email)
    hashed = _hashed(settings, email, password)
    user = User(id=token.new_id(), email=email, admin=admin, created_at=datetime.now(UTC))
    return store.users.add(user, hashed)


def address_of(email: str) -> str:
    """The address, its domain in lower case; internal domains are as good as any."""
    if not _EMAIL.fullmatch(email) or ".." in email:
        raise ConfigError(
            "users.email", "this is not an e-mail address", field="email", remedy="Write name@domain."
        )
    name, _, domain = email.rpartition("@")
    return f"{name}@{domain.lower()}"


def _hashed(settings: Settings, email: str, text: str) -> str:
    password.refuse_weak(text, email, settings.password_minimum)
    return password.hash(text)


def _bad_token() -> AuthError:
    return AuthError(
        "sessions.bad_token", "the link was used already, or is too old", remedy="Ask for a new one."
    )
