"""Addresses as settings write them: `unix:path`, `host:port`, and several of them with commas in between."""

import ipaddress
from pathlib import Path


def listening(given: str, home: Path, service: str) -> list[str]:
    """Where a service listens: at the addresses given, separated by commas; without any, at its socket in the home."""
    return [each.strip() for each in given.split(",") if each.strip()] or [unix_socket(home, service)]


def unix_socket(home: Path, service: str) -> str:
    """The address of a service's own socket."""
    return f"unix:{home.absolute()}/run/{service}.sock"


def host_and_port(address: str) -> tuple[str, int] | None:
    """The two of `host:port`, an IPv6 host without its brackets; None for what is no such address."""
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine to itself, by name or number."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
