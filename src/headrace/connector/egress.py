"""Where a connection may go: a name is resolved once, and the address that was checked is dialled."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from headrace.errors import ConfigError, TransientError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Metadata services of cloud providers that do not lie in the link-local networks.
_METADATA = frozenset(
    ipaddress.ip_address(a)
    for a in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Policy:
    """Where this process may dial: itself only if `loopback`, or if a network in `listed` says so."""

    loopback: bool = True
    listed: tuple[Network, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"loopback": self.loopback, "listed": [str(network) for network in self.listed]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(data["loopback"], tuple(ipaddress.ip_network(text) for text in data["listed"]))


_policy = Policy()


def policy() -> Policy:
    """The one that this process is under; a command line's own is to dial what its user names."""
    return _policy


def restrict(to: Policy) -> None:
    """Put this process under a policy, before it opens anything for others."""
    global _policy  # noqa: PLW0603 - it is a property of the process, and holds in all threads
    _policy = to


def check_url(url: str | None) -> None:
    """Refuse a URL whose host may not be dialled, for drivers that look it up by themselves.

    Between this look-up and theirs the name may change its meaning: dial addresses where that can be.
    A name that can't be looked up is left to the driver, which says so in its own words.
    """
    if url and (host := urlsplit(url).hostname):
        with contextlib.suppress(TransientError):
            resolve(host)


def resolve(host: str, *, loopback: bool = True) -> tuple[Address, ...]:
    """The addresses of `host`, every one of them checked; dial these, and never the name again.

    Link-local and metadata addresses are always refused, private networks never, loopback unless
    both `loopback` and the policy of this process allow it. Raises ConfigError (`egress.refused`) or
    TransientError.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise TransientError(
                "egress.no_resolver",
                f"the name {host!r} can't be looked up now",
                remedy="Check the network and the name server of this machine.",
            ) from None
        raise TransientError(
            "egress.unknown_host",
            f"there is no host {host!r}",
            remedy="Check the spelling of the host name.",
        ) from None
    except (UnicodeError, ValueError):
        raise ConfigError(
            "egress.bad_host", f"{host!r} is not a host name", remedy="Check the spelling of the host name."
        ) from None
    addresses = tuple(dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found))
    for address in addresses:
        listed = any(address in network for network in _policy.listed)
        if forbidden(address, loopback=loopback and (_policy.loopback or listed)):
            raise ConfigError(
                "egress.refused",
                f"{host!r} leads to {address}, where no connection may go",
                remedy="Give the address of the service itself: link-local, metadata and foreign loopback "
                "addresses are never dialled.",
            )
    return addresses


def forbidden(address: Address, *, loopback: bool = True) -> bool:
    """Is this an address that no user may make us dial?"""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _carried(address)
        if inner is not None:
            return forbidden(inner, loopback=loopback)
    if address.is_loopback:
        return not loopback
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address in _METADATA
        or (isinstance(address, ipaddress.IPv4Address) and (address.is_reserved or address.packed[0] == 0))
    )


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for on the way."""
    if address in _NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo
