"""The settings of PostgreSQL: addresses, what is refused, and what never shows."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.connectors.postgres.config import PostgresConfig
from headrace.errors import ConfigError

GOOD = {"host": "db", "database": "shop", "username": "reader", "password": "s3cret"}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
SSH = {"host": "jump", "username": "me", "password": "x", "known_host": KEY}


def parsed(**settings: Any) -> PostgresConfig:
    return PostgresConfig.parse({**GOOD, **settings})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h/d", {"host": "h", "username": "u", "password": "p", "database": "d"}),
        ("postgres://u@h:6543/d", {"host": "h", "port": 6543, "username": "u", "database": "d"}),
        (
            "postgresql://us%40er:p%2Fw%3A%23@h/d%20b",
            {"host": "h", "username": "us@er", "password": "p/w:#", "database": "d b"},
        ),
        ("postgresql://u@[::1]:5/d", {"host": "::1", "port": 5, "username": "u", "database": "d"}),
        (
            "postgresql://u@h/d?sslmode=verify-full&connect_timeout=3&schemas=a,b",
            {"host": "h", "username": "u", "database": "d", "ssl_mode": "verify-full", "connect_timeout": "3",
             "schemas": "a,b"},
        ),
    ],
)  # fmt: skip
def test_an_address_becomes_settings(url: str, expected: dict[str, Any]) -> None:
    assert PostgresConfig.from_url(url) == expected
    PostgresConfig.parse(PostgresConfig.from_url(url))


def test_numbers_and_lists_in_an_address_are_parsed() -> None:
    found = PostgresConfig.parse(PostgresConfig.from_url("postgres://u@h/d?connect_timeout=3&schemas=a,b"))
    assert (found.connect_timeout, found.schemas) == (3, ("a", "b"))


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("sslmod=require", "Did you mean 'sslmode'?"),
        ("options=-c%20x=y", "Options are"),
        ("SSLMODE=require", "Options are"),
        ("ssl%09mode=require", "Did you mean"),
        ("host=/tmp", "Options are"),
        ("service=x", "host, port, database, username"),
        ("passfile=/etc/passwd", "password"),
        ("sslkey=/etc/passwd", "ssl.key"),
        ("sslrootcert=/etc/passwd", "ssl.ca"),
        ("sslkeylogfile=/tmp/x", "setting"),
    ],
)
def test_an_option_that_is_not_on_the_list_is_refused(option: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PostgresConfig.from_url(f"postgresql://u:s3cret@h/d?{option}")
    assert remedy in (caught.value.remedy or "") and "s3cret" not in str(caught.value.as_dict())


@pytest.mark.parametrize(
    "url", ["postgresql:///d", "postgresql://u:a#b@h/d", "postgresql://u:s3cret@h:port/d"]
)
def test_an_address_that_can_not_be_read_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PostgresConfig.from_url(url)
    assert caught.value.code == "postgres.url" and "s3cret" not in str(caught.value.as_dict())


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"host": "/var/run/postgresql"}, "host"),
        ({"host": "a,b"}, "host"),
        ({"host": "@abstract"}, "host"),
        ({"host": ""}, "host"),
        ({"database": "a\0b"}, "database"),
        ({"ssl_mode": "none"}, "ssl_mode"),
        ({"port": 0}, "port"),
        ({"ssl": {"ca": "/etc/passwd"}}, "ssl.ca"),
        ({"ssl": {"cert": "-----BEGIN CERTIFICATE-----"}}, "ssl"),
        ({"ssh": {**SSH, "known_host": "any"}}, "ssh.known_host"),
        ({"ssh": {**SSH, "private_key": "-----BEGIN OPENSSH PRIVATE KEY-----"}}, "ssh"),
        ({"ssh": {**SSH, "password": None}}, "ssh"),
        ({"ssh": {**SSH, "password": None, "private_key": "~/.ssh/id_rsa"}}, "ssh.private_key"),
        ({"ssh": {"host": "jump", "username": "me", "password": "x"}}, "ssh.known_host"),
        ({"pasword": "x"}, "pasword"),
    ],
)
def test_a_setting_that_is_wrong_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(**settings)
    assert caught.value.field == field and "s3cret" not in str(caught.value.as_dict())


def test_verify_ca_needs_an_authority() -> None:
    with pytest.raises(ConfigError, match=r"needs ssl\.ca"):
        parsed(ssl_mode="verify-ca")


def test_secrets_are_declared_and_never_shown() -> None:
    config = parsed(ssh=SSH)
    assert PostgresConfig.secret_fields() == {"password", "ssl.key", "ssh.password", "ssh.private_key"}
    assert "s3cret" not in repr(config) + str(config) + config.model_dump_json()


def test_a_known_host_may_stand_as_ssh_keyscan_prints_it() -> None:
    for line in (KEY, f"jump {KEY}", f"[jump]:2222 {KEY} comment"):
        ssh = parsed(ssh={**SSH, "known_host": line}).ssh
        assert ssh and ssh.known_host == KEY
