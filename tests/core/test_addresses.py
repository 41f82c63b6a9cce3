"""Addresses as settings write them."""

from pathlib import Path

import pytest

from nanoclaw_core.addresses import host_and_port, is_loopback, listening


def test_a_service_listens_where_it_is_told_or_at_its_own_socket() -> None:
    """Commas in between, blanks and empty parts don't matter; a relative home becomes absolute."""
    assert listening(" unix:/run/a.sock , 127.0.0.1:1,, ", Path("/h"), "broker") == ["unix:/run/a.sock", "127.0.0.1:1"]
    assert listening(" , ", Path("/h"), "broker") == ["unix:/h/run/broker.sock"]
    assert listening("", Path("var"), "governance") == [f"unix:{Path.cwd()}/var/run/governance.sock"]


@pytest.mark.parametrize(
    ("address", "at"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:50051", ("::1", 50051)),
        ("example.org:80", ("example.org", 80)),
        ("127.0.0.1", None),
        (":80", None),
        ("127.0.0.1:", None),
        ("127.0.0.1:65536", None),
        ("127.0.0.1:-1", None),
        ("127.0.0.1:8o", None),
        ("127.0.0.1:²", None),
        ("", None),
    ],
)
def test_host_and_port_are_told_apart(address: str, at: tuple[str, int] | None) -> None:
    """What is no such address is none, never half of one."""
    assert host_and_port(address) == at


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example.org", False), ("", False),
    ],
)  # fmt: skip
def test_loopback_is_this_machine_to_itself(host: str, local: bool) -> None:
    """Not every address of the machine, and no name but one."""
    assert is_loopback(host) == local
