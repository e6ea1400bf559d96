"""What a process may dial is one policy, under which drivers open their connections."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace import catalog
from headrace.connector import egress
from headrace.control.platform import Platform
from headrace.control.settings import Settings
from headrace.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1", "0x7f000001", "2130706433", "::ffff:127.0.0.1")
NEVER = ("169.254.169.254", "::ffff:169.254.169.254", "2852039166", "0.0.0.0", "fd00:ec2::254")


@pytest.fixture
def strict() -> Iterator[None]:
    """Loopback is refused, as by a server that others can reach."""
    before = egress.policy()
    egress.restrict(egress.Policy(loopback=False))
    yield
    egress.restrict(before)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return caught.value.code


@pytest.mark.parametrize("host", [*LOOPBACK, *NEVER])
def test_a_server_for_others_dials_neither_itself_nor_metadata(strict: None, host: str) -> None:
    assert refused(lambda: egress.resolve(host)) == "egress.refused"
    assert egress.resolve("10.1.2.3")  # where databases live


@pytest.mark.parametrize("host", NEVER)
def test_metadata_is_never_dialled(host: str) -> None:
    assert refused(lambda: egress.resolve(host)) == "egress.refused"


def test_what_the_operator_lists_may_be_dialled_but_for_metadata(strict: None) -> None:
    listed = tuple(ipaddress.ip_network(text) for text in ("127.0.0.2/32", "169.254.0.0/16"))
    policy = egress.Policy(loopback=False, listed=listed)
    assert egress.Policy.from_json(policy.to_json()) == policy
    egress.restrict(policy)
    assert egress.resolve("127.0.0.2")
    for host in ("127.0.0.1", "169.254.169.254"):
        assert refused(lambda host=host: egress.resolve(host)) == "egress.refused"  # type: ignore[misc]


def test_a_platform_that_serves_others_restricts_its_process(strict: None, tmp_path: Path) -> None:
    egress.restrict(egress.Policy())
    variables = {"HEADRACE_ALLOWED_NETWORKS": "127.0.0.2/32, ::1/128"}
    platform = Platform.open(tmp_path, variables, loopback=False)
    platform.restrict()
    platform.close()
    assert refused(lambda: egress.resolve("127.0.0.1")) == "egress.refused"
    assert egress.resolve("127.0.0.2")
    with pytest.raises(ConfigError) as caught:
        Settings.read({"HEADRACE_ALLOWED_NETWORKS": "here"})
    assert caught.value.field == "HEADRACE_ALLOWED_NETWORKS"


def source(connector: str, **settings: object) -> Callable[[], object]:
    return lambda: catalog.source(connector, settings).check()


POSTGRES = {"database": "d", "username": "u", "connect_timeout": 2}
SSH = {
    "host": "127.0.0.1",
    "username": "u",
    "password": "p",
    "known_host": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6HrjY2fPMc0GnvNn9xCkq6W2J9VhRUmVUFDoiZ0mBz",
}
S3 = {"endpoint": "http://127.0.0.1:1", "access_key_id": "a", "secret_access_key": "b"}


@pytest.mark.parametrize(
    ("connector", "settings"),
    [
        ("postgres", {**POSTGRES, "host": "localhost"}),
        ("postgres", {**POSTGRES, "host": "169.254.169.254"}),
        ("postgres", {**POSTGRES, "host": "db.invalid", "ssh": SSH}),
        ("files", {"url": "s3://bucket/x.csv", "s3": S3}),
    ],
)
def test_a_connector_opens_nothing_that_is_refused(
    strict: None, connector: str, settings: dict[str, object]
) -> None:
    assert refused(source(connector, **settings)) == "egress.refused"


def test_a_target_opens_nothing_that_is_refused(strict: None) -> None:
    for settings in (
        {"catalog_type": "rest", "uri": "http://127.0.0.1:1", "warehouse": "w"},
        {"uri": "postgresql+psycopg2://u@127.0.0.1:1/c", "warehouse": "s3://w", "s3": S3},
    ):
        target = catalog.target("iceberg", settings)
        assert refused(target.check) == "egress.refused"
