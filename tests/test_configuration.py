"""docs/configuration.md names every setting there is, and no other."""

import dataclasses
import re
from pathlib import Path

import pytest

from nanoclaw_broker.settings import Settings as Broker
from nanoclaw_dispatcher.settings import Settings as Dispatcher
from nanoclaw_governance.settings import Settings as Governance
from nanoclaw_ipc_gateway.settings import Settings as Gateway

TEXT = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text()
SHARED = {"HOME", "SECRETS", "LISTEN", "METRICS", "DRAIN_SECONDS", "ALLOW_REMOTE", "TLS_ENABLED", "TLS_DIR"}


@pytest.mark.parametrize(
    ("heading", "settings"),
    [("Governance", Governance), ("Broker", Broker), ("Dispatcher", Dispatcher), ("IPC gateway", Gateway)],
)
def test_the_document_names_every_setting(heading: str, settings: type) -> None:
    """A setting that is not documented does not exist for a stranger."""
    section = TEXT.partition(f"## {heading}: ")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([A-Z_0-9]+)`", row)}
    known = {field.name.upper() for field in dataclasses.fields(settings)}
    assert named == known - SHARED
