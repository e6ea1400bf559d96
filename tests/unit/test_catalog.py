"""Connectors that are planned are described to the last setting, and say honestly that they can't be used."""

from __future__ import annotations

import re
from typing import Any

import pytest

from docs.generate import settings as settings_of
from headrace import catalog
from headrace.connector import Maturity
from headrace.control.connections import WHERE_TO
from headrace.control.endpoint import public
from headrace.errors import ConfigError

TYPES = (
    "postgres", "mysql", "mongodb", "mssql", "oracle", "salesforce", "hubspot", "stripe", "s3", "gcs",
    "azure-blob-storage", "sftp-bulk", "github", "jira", "zendesk",
)  # fmt: skip

CANARY = "canary-of-the-test"
PEM = f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6HrjY2fPMc0GnvNn9xCkq6W2J9VhRUmVUFDoiZ0mBz"
USER: dict[str, Any] = {"username": "reader", "password": CANARY}
SERVER = {"host": "db.example.org", "database": "shop", **USER}
BOTH = {"account_key": CANARY, "sas_token": CANARY}
SSH = {"host": "jump.example.org", "username": "j", "private_key": PEM, "known_host": HOST_KEY}

PLANNED: dict[str, list[dict[str, Any]]] = {
    "mysql": [SERVER, {**SERVER, "ssl_mode": "verify-full", "ssh": SSH, "server_id": 77}],
    "mongodb": [
        {"connection_string": f"mongodb+srv://reader:{CANARY}@db.example.org/", "database": "shop"},
        {"hosts": ["a:27017", "b:27017"], "replica_set": "rs0", "database": "shop", **USER, "tls": True},
    ],
    "mssql": [SERVER, {**SERVER, "schemas": ["dbo"], "encrypt": False}],
    "oracle": [
        {"host": "db.example.org", "service_name": "shop", **USER},
        {"host": "h", "sid": "S", **USER, "encryption": "tls", "wallet": {"pem": PEM, "password": CANARY}},
    ],
    "salesforce": [
        {"client_id": "app", "client_secret": CANARY, "refresh_token": CANARY, "objects": ["Account"]},
        {"client_id": "app", "username": "me@example.org", "private_key": PEM, "start_date": "2026-01-01"},
    ],
    "hubspot": [
        {"access_token": CANARY, "objects": ["contacts"]},
        {"client_id": "app", "client_secret": CANARY, "refresh_token": CANARY},
    ],
    "stripe": [{"api_key": CANARY, "account_id": "acct_1", "lookback_days": 3, "start_date": "2026-01-01"}],
    "sftp-bulk": [
        {"host": "files.example.org", **USER, "known_host": HOST_KEY, "globs": {"orders": "orders-*.csv"}},
        {**SSH, "folder": "/out", "globs": ["*.csv"], "format": {"type": "csv", "delimiter": ";"}},
    ],
    "github": [
        {"token": CANARY, "repositories": ["acme/shop"], "streams": ["issues"]},
        {"app": {"id": 5, "key": PEM}, "repositories": ["acme/*"]},
    ],
    "jira": [{"base_url": "https://acme.example.org", "email": "me@example.org", "api_token": CANARY}],
    "zendesk": [
        {"subdomain": "acme", "email": "me@example.org", "api_token": CANARY},
        {"base_url": "https://acme.example.org", "oauth_token": CANARY},
    ],
    "kafka": [
        {
            "bootstrap_servers": ["broker:9092"],
            "topics": ["orders"],
            "security_protocol": "sasl_ssl",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": "reader",
            "sasl_password": CANARY,
            "client_key": PEM,
            "schema_registry": {"url": "https://r.example.org", "username": "r", "password": CANARY},
        }
    ],
}
EXAMPLES = [(name, settings) for name, examples in PLANNED.items() for settings in examples]


def test_every_type_that_a_client_may_ask_for_is_in_the_catalogue() -> None:
    for name in TYPES:
        assert catalog.connector(name).name == name
        assert catalog.connector(name).reads


def test_what_is_planned_is_tested_here() -> None:
    planned = {n for n, spec in catalog.connectors().items() if spec.maturity is Maturity.PLANNED}
    assert planned == PLANNED.keys()
    for name in planned:
        assert catalog.connector(name).unavailable.endswith(".")  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "settings"), EXAMPLES)
def test_settings_of_a_planned_connector_are_checked_and_their_secrets_kept_apart(
    name: str, settings: dict[str, Any]
) -> None:
    config = catalog.connector(name).config
    parsed = config.parse(settings)
    shown = f"{parsed!r}{parsed}{parsed.model_dump_json()}{public(config, settings)}"
    assert CANARY not in shown
    assert CANARY in str(settings)
    with pytest.raises(ConfigError) as caught:
        config.parse({**settings, "no_such_setting": CANARY})
    assert caught.value.code == "config.unknown_setting"
    assert CANARY not in str(caught.value.as_dict())


@pytest.mark.parametrize(("name", "settings"), EXAMPLES)
def test_a_planned_connector_is_refused_by_name_with_what_is_missing(
    name: str, settings: dict[str, Any]
) -> None:
    spec = catalog.connector(name)
    opened = [lambda: catalog.source(name, settings), lambda: catalog.from_url(f"{name}://host/x")]
    if spec.writes:
        opened.append(lambda: catalog.target(name, settings))
    for use in opened:
        with pytest.raises(ConfigError) as caught:
            use()
        assert caught.value.code == "catalog.not_yet"
        assert caught.value.field == "connector"
        lack = str(spec.unavailable).removeprefix("The").rstrip(".")
        assert spec.title in caught.value.message and caught.value.message.endswith(f": the{lack}")
        assert caught.value.remedy and "postgres" in caught.value.remedy and name not in caught.value.remedy


def test_no_setting_that_says_where_a_secret_goes_is_forgotten() -> None:
    """With another address a stored secret must be given again, so each address must be known as one."""
    address = re.compile(r"(^|_)(url|uri|hosts?|servers?|endpoint|subdomain|account|sid|connection_string)$")
    fixed = {"known_host"}  # a key, not an address
    for name, spec in catalog.connectors().items():
        if spec.config.secret_fields():
            leaves = {path.rpartition(".")[2] for path, _, _ in settings_of(spec.config)}
            assert {leaf for leaf in leaves if address.search(leaf)} - fixed <= WHERE_TO, name


def test_a_planned_source_that_is_no_target_is_refused_as_one() -> None:
    with pytest.raises(ConfigError) as caught:
        catalog.target("mysql", SERVER)
    assert caught.value.code == "catalog.not_a_target"


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("mysql", {**SERVER, "host": "a,b"}, "host"),
        ("mongodb", {"database": "shop"}, "hosts"),
        ("mongodb", {"database": "shop", "connection_string": CANARY}, "mongodb://"),
        ("oracle", {"host": "h", **USER}, "sid"),
        ("salesforce", {"client_id": "app"}, "refresh_token"),
        ("salesforce", {"client_id": "app", "private_key": PEM}, "username"),
        ("hubspot", {"client_id": "app"}, "client_secret"),
        ("hubspot", {}, "access_token"),
        ("github", {"repositories": ["acme/shop"]}, "token"),
        ("zendesk", {"subdomain": "acme", "api_token": CANARY}, "email"),
        ("zendesk", {"oauth_token": CANARY}, "subdomain"),
        ("sftp-bulk", {"host": "h", "username": "u", "known_host": HOST_KEY}, "private_key"),
        ("kafka", {"bootstrap_servers": ["b"], "topics": ["a"], "topic_pattern": "b"}, "topic_pattern"),
        ("kafka", {"bootstrap_servers": ["b"], "security_protocol": "sasl_ssl"}, "sasl_mechanism"),
        ("s3", {"bucket": "b", "access_key_id": CANARY}, "secret_access_key"),
        ("azure-blob-storage", {"account": "acc", "container": "c", **BOTH}, "sas_token"),
        ("s3", {"bucket": "b/c"}, "bucket"),
        ("s3", {"bucket": "b", "prefix": "x/*"}, "globs"),
        ("s3", {"bucket": "b", "globs": ["a/orders-*.csv", "b/orders.csv"]}, "orders"),
        ("s3", {"bucket": "b", "globs": {"": "*.csv"}}, "name"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(name: str, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        catalog.connector(name).config.parse(settings)
    assert caught.value.code == "config.bad_setting"
    assert word in caught.value.message
    assert CANARY not in str(caught.value.as_dict())
