"""Services with an API of their own that are described and not read yet."""

from __future__ import annotations

from datetime import date
from typing import Self

from pydantic import model_validator

from headrace.connector import Capability, Config, ConnectorSpec, Maturity, Secret, setting

_CAN = frozenset({Capability.FULL, Capability.INCREMENTAL})
_URL = "^https?://[^/?#@]+(/[^?#]*)?$"


class _Since(Config):
    start_date: date | None = setting(
        "Leave out what was last changed before this day; all there is by default.", default=None
    )


class SalesforceConfig(_Since):
    """An organisation, and a connected app that may read it."""

    login_url: str = setting(
        "Where tokens are given out.", default="https://login.salesforce.com", pattern=_URL
    )
    instance_url: str | None = setting(
        "Address of the organisation; the default is what its token says.", default=None, pattern=_URL
    )
    client_id: str = setting("The connected app's consumer key.", min_length=1)
    client_secret: Secret | None = setting("The connected app's consumer secret.", default=None)
    refresh_token: Secret | None = setting("A refresh token of a user who may read.", default=None)
    username: str | None = setting("The user on whose behalf private_key signs in.", default=None)
    private_key: Secret | None = setting(
        "The connected app's key as PEM text, in place of a refresh token.", default=None
    )
    api_version: str = setting("Version of the API.", default="62.0", pattern=r"^\d{2}\.0$", advanced=True)
    objects: tuple[str, ...] = setting("The objects to read; all by default.", default=())

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if (self.refresh_token is None) == (self.private_key is None):
            raise ValueError("needs either refresh_token or private_key")
        if self.private_key is not None and self.username is None:
            raise ValueError("private_key needs username")
        if self.refresh_token is not None and self.client_secret is None:
            raise ValueError("refresh_token needs client_secret")
        return self


class HubspotConfig(_Since):
    """An account, by the token of a private app or by OAuth."""

    base_url: str = setting(
        "Address of the API.", default="https://api.hubapi.com", pattern=_URL, advanced=True
    )
    access_token: Secret | None = setting("The token of a private app.", default=None)
    client_id: str | None = setting("OAuth, in place of access_token: the app.", default=None)
    client_secret: Secret | None = setting("OAuth: the app's secret.", default=None)
    refresh_token: Secret | None = setting("OAuth: a refresh token.", default=None)
    objects: tuple[str, ...] = setting("The objects to read; all by default.", default=())

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        oauth = [v is not None for v in (self.client_id, self.client_secret, self.refresh_token)]
        if any(oauth) != all(oauth):
            raise ValueError("client_id, client_secret and refresh_token go together")
        if (self.access_token is not None) == any(oauth):
            raise ValueError("needs either access_token or client_id, client_secret and refresh_token")
        return self


class StripeConfig(_Since):
    """An account of Stripe."""

    base_url: str = setting(
        "Address of the API.", default="https://api.stripe.com", pattern=_URL, advanced=True
    )
    api_key: Secret = setting("A key that may read; a restricted one is enough.")
    account_id: str | None = setting(
        "The connected account to read; the key's own by default.", default=None, pattern="^acct_"
    )
    lookback_days: int = setting("Read so many days again, for what came late.", default=0, ge=0, le=30)


class GithubApp(Config):
    """An app that is installed for the repositories."""

    id: int = setting("The number of the app.", ge=1)
    key: Secret = setting("The app's private key, as PEM text.")


class GithubConfig(_Since):
    """Repositories, by a token or by an app."""

    base_url: str = setting(
        "Address of the API.", default="https://api.github.com", pattern=_URL, advanced=True
    )
    token: Secret | None = setting("A token that may read the repositories.", default=None)
    app: GithubApp | None = setting("An app, in place of a token.", default=None)
    repositories: tuple[str, ...] = setting(
        "The repositories to read, each as owner/name or owner/*.", min_length=1, examples=[["acme/shop"]]
    )
    streams: tuple[str, ...] = setting("The streams to read; all by default.", default=())

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if (self.token is None) == (self.app is None):
            raise ValueError("needs either token or app")
        return self


class JiraConfig(_Since):
    """A site of Jira."""

    base_url: str = setting("Address of the site.", pattern=_URL, examples=["https://acme.atlassian.net"])
    email: str = setting("The user whose token it is.", pattern="^[^@ ]+@[^@ ]+$")
    api_token: Secret = setting("A token of the user.")
    projects: tuple[str, ...] = setting("Keys of the projects to read; all by default.", default=())


class ZendeskConfig(_Since):
    """A help desk, by a user's token or by OAuth."""

    base_url: str | None = setting(
        "Address of the help desk.", default=None, pattern=_URL, examples=["https://acme.zendesk.com"]
    )
    subdomain: str | None = setting(
        "The help desk's part of zendesk.com, in place of base_url.", default=None, pattern="^[A-Za-z0-9-]+$"
    )
    email: str | None = setting("The user whose api_token it is.", default=None, pattern="^[^@ ]+@[^@ ]+$")
    api_token: Secret | None = setting("A token of the user.", default=None)
    oauth_token: Secret | None = setting("An OAuth token, in place of email and api_token.", default=None)

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.base_url is None) == (self.subdomain is None):
            raise ValueError("needs either base_url or subdomain")
        if (self.api_token is None) == (self.oauth_token is None):
            raise ValueError("needs either api_token or oauth_token")
        if (self.email is None) != (self.api_token is None):
            raise ValueError("email and api_token go together")
        return self


def _planned(name: str, title: str, config: type[Config], unavailable: str) -> ConnectorSpec:
    return ConnectorSpec(
        name=name,
        title=title,
        version="0",
        config=config,
        capabilities=_CAN,
        maturity=Maturity.PLANNED,
        category="service",
        icon=name,
        unavailable=unavailable,
    )


SALESFORCE = _planned(
    "salesforce", "Salesforce", SalesforceConfig, "The reader of its bulk queries and objects is missing."
)
HUBSPOT = _planned(
    "hubspot", "HubSpot", HubspotConfig, "The reader of its objects and of their search is missing."
)
STRIPE = _planned("stripe", "Stripe", StripeConfig, "The reader of its lists and events is missing.")
GITHUB = _planned("github", "GitHub", GithubConfig, "The reader of its repositories is missing.")
JIRA = _planned("jira", "Jira", JiraConfig, "The reader of its issues and projects is missing.")
ZENDESK = _planned("zendesk", "Zendesk", ZendeskConfig, "The reader of its tickets and exports is missing.")
