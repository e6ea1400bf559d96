"""Try the Kafka that a workspace brings along: whether it can be reached, and lets us in."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from headrace.connector import egress
from headrace.errors import ConfigError, TransientError

_PATIENCE = 10.0  # seconds

_OPTIONS = {
    "security_protocol": "security.protocol",
    "sasl_mechanism": "sasl.mechanism",
    "sasl_username": "sasl.username",
    "sasl_password": "sasl.password",
    "ca_cert": "ssl.ca.pem",
    "cert": "ssl.certificate.pem",
    "key": "ssl.key.pem",
}
"""What may be said to the client, and under which name; nothing else ever reaches it."""


def check(settings: Mapping[str, Any]) -> None:
    """Return when the cluster names its brokers. Raises one of our errors else, without a secret in it."""
    try:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient
    except ImportError:
        raise ConfigError(
            "broker.driver_missing",
            "the Kafka client is not installed here",
            remedy="Install it: pip install 'headrace[kafka]'.",
        ) from None
    servers = str(settings["bootstrap_server"])
    for server in servers.split(","):
        egress.resolve(_host(server))
    options = {
        theirs: settings[ours].strip() if theirs.endswith("pem") else settings[ours]
        for ours, theirs in _OPTIONS.items()
        if settings.get(ours)
    }
    if "sasl.username" in options:
        options.setdefault("security.protocol", "SASL_SSL")
        options.setdefault("sasl.mechanism", "PLAIN")
    fixed: dict[str, Any] = {"socket.timeout.ms": 5000, "bootstrap.servers": servers}
    silent = logging.getLogger("headrace.broker.client")
    silent.disabled = True  # what the client has to say of its tries is for nobody
    try:
        AdminClient({**options, **fixed}, logger=silent).list_topics(timeout=_PATIENCE)
    except (KafkaException, ValueError) as error:
        raise TransientError(
            "broker.unreachable",
            f"the cluster does not answer: {_reason(error)}",
            remedy="Check address, security protocol and credentials.",
        ) from None


def _host(server: str) -> str:
    """The host of `host:port`. Raises ConfigError."""
    host, _, port = server.strip().rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(
            "broker.address",
            f"{server.strip()!r} is not the address of a broker",
            field="bootstrap_server",
            remedy="Write host:port.",
        )
    return host.strip("[]")


def _reason(error: Exception) -> str:
    inner = error.args[0] if error.args else error
    return inner.name() if hasattr(inner, "name") else type(error).__name__
