"""docs/configuration.md names every setting there is, and no other."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoclaw_broker import settings as broker_settings
from nanoclaw_broker.settings import Settings as Broker
from nanoclaw_core.errors import NanoclawError
from nanoclaw_dispatcher import settings as dispatcher_settings
from nanoclaw_dispatcher.settings import Settings as Dispatcher
from nanoclaw_governance import settings as governance_settings
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


@pytest.mark.parametrize("setting", sorted(SHARED))
def test_the_document_names_what_all_services_share(setting: str) -> None:
    """Once, in the part about all of them."""
    section = TEXT.partition("## Shared")[2].partition("\n## ")[0]
    assert re.search(rf"`NANOCLAW_(<SERVICE>_)?{setting}\b", section)


@pytest.mark.parametrize(
    "load", [governance_settings.load, broker_settings.read, dispatcher_settings.load, Gateway.read]
)
def test_a_mistyped_setting_of_tls_stops_the_start(load: Callable[[dict[str, str]], object]) -> None:
    """`NANOCLAW_TLS_ENABLE=1` would else leave a port in clear text."""
    with pytest.raises(NanoclawError) as caught:
        load({"NANOCLAW_TLS_ENABLE": "1"})
    assert caught.value.reason == "UNKNOWN_SETTING"
    assert "NANOCLAW_TLS_ENABLED" in caught.value.next_step
