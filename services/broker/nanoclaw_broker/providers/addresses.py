"""Which addresses and hosts may be reached: an allow-list by name, and never inwards by the way of a name."""

import enum
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from nanoclaw_core.errors import Kind, NanoclawError

Address = IPv4Address | IPv6Address

DEFAULT_PORTS = {"http": 80, "https": 443}

_NAT64 = IPv6Network("64:ff9b::/96")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16"),  # beside the link-local ones
    )
)
_SITE_LOCAL = (IPv6Network("fec0::/10"), IPv6Network("64:ff9b:1::/48"))
"""Of a site's own: addresses, and what its own NAT64 makes of any address."""
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        ("192.0.0.0/24", "192.88.99.0/24", "2001::/32", "2002::/16", "3fff::/20", "5f00::/16"),
    )
)
"""For protocols, relays, tunnels (Teredo, 6to4), documentation and routing: one cloud has its metadata there, and
versions of Python differ."""


class Reach(enum.Enum):
    """How far away an address is."""

    PUBLIC = "public"
    PRIVATE = "private"
    """This machine or its network: for a host that is listed with its port."""
    NEVER = "never"
    """Link-local, metadata, multicast, reserved: only where this very address is listed with its port."""


def reach(address: Address) -> Reach:
    """Where an address leads, whatever form it is written in."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return reach(address.ipv4_mapped)
        if address.scope_id is not None or any(address in network for network in _SITE_LOCAL):
            return Reach.NEVER
        hidden = _embedded(address)
        if hidden is not None:
            return Reach.PUBLIC if reach(hidden) is Reach.PUBLIC else Reach.NEVER
    if address in _METADATA or address.is_link_local or address.is_multicast or address.is_unspecified:
        return Reach.NEVER
    if _is_in(address, _SPECIAL):
        return Reach.NEVER
    if address.is_global:
        return Reach.PUBLIC
    if address.is_loopback or _is_in(address, _OWN):
        return Reach.PRIVATE
    return Reach.NEVER


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a gateway would take it to."""
    if address in _NAT64 or address in _TRANSLATED or (int(address) >> 32 == 0 and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


_OWN = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")))


def _is_in(address: Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the list. port None: the scheme's own. below: also every name under `host`, but not itself."""

    host: str
    port: int | None = None
    below: bool = False


class AllowList:
    """Hosts by name: `example.org`, `*.example.org`, `intranet:8443`, `127.0.0.1:8080`, `[::1]:8080`; comma separated.

    Without a port the default ones of http and https are meant, and only public addresses are reached; with a port the
    host may be on a private network. Raises INVALID_SETTING.
    """

    def __init__(self, text: str, setting: str = "NANOCLAW_BROKER_HTTP_ALLOW") -> None:
        self.entries = tuple(_parse(part.strip(), setting) for part in text.split(",") if part.strip())

    def find(self, host: str, port: int) -> Entry | None:
        """The entry that lets this host and port pass; one with a port comes first."""
        name = normal(host)
        matching = [entry for entry in self.entries if _matches(entry, name, port)]
        return min(matching, key=lambda entry: entry.port is None, default=None)

    def refuses(self, entry: Entry, addresses: Iterable[Address]) -> Address | None:
        """The first address that is not to be reached for a host that passed by `entry`."""
        for address in addresses:
            how = reach(address)
            listed = entry.port is not None and not entry.below
            if how is Reach.PUBLIC or (listed and (how is Reach.PRIVATE or _is(entry.host, address))):
                continue
            return address
        return None


def normal(host: str) -> str:
    """A host as it is compared: lower case, no brackets, no final dot."""
    return host.strip("[]").rstrip(".").lower()


def is_this_machine(host: str) -> bool:
    """Whether a host's name, without asking anybody, can only be this machine."""
    try:
        return ipaddress.ip_address(normal(host)).is_loopback
    except ValueError:
        return normal(host) == "localhost"


def _is(host: str, address: Address) -> bool:
    try:
        return ipaddress.ip_address(host) == address
    except ValueError:
        return False


def _matches(entry: Entry, host: str, port: int) -> bool:
    if port not in ((entry.port,) if entry.port is not None else DEFAULT_PORTS.values()):
        return False
    return host.endswith("." + entry.host) if entry.below else host == entry.host


def _parse(text: str, setting: str) -> Entry:
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text.partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    below = host.startswith("*.")
    name = normal(host.removeprefix("*."))
    if not name or "*" in name or "/" in name or (port and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise NanoclawError(
            Kind.INVALID,
            "INVALID_SETTING",
            f"{setting}: {text!r} is not a host",
            next_step="write host, *.domain, host:port or [address]:port",
        )
    return Entry(name, int(port) if port else None, below)
