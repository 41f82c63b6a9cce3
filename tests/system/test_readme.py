"""The grpcurl sessions of the documentation work when they are pasted."""

import re
import shutil
from pathlib import Path

import pytest
from pasted import between, paste

from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import Supervisor

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    shutil.which("grpcurl") is None,
    reason="grpcurl is not installed (go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3)",
)


@pytest.fixture
def places(ports: dict[str, int], system: Supervisor) -> dict[str, str]:
    """Where the documents' words are here."""
    return {
        "var/secrets": f"{system.home}/secrets",
        **{f"127.0.0.1:{service.port}": f"127.0.0.1:{ports[service.name]}" for service in SERVICES},
    }


async def test_the_grpcurl_session_of_the_readme_works_when_pasted(places: dict[str, str]) -> None:
    """Every line exits 0, and the answers are what the text around them says."""
    (out,) = await paste(between((ROOT / "README.md").read_text(), "session"), places)
    assert "nanoclaw.governance.v1.GovernanceService.TransitionTask" in out
    assert '"state": "TASK_STATE_INBOX"' in out
    assert "NO_SUCH_EDGE" in out
    assert '"action": "transition"' in out


@pytest.mark.system
async def test_the_long_session_prints_what_the_page_shows(places: dict[str, str]) -> None:
    """docs/grpc.md from top to bottom: each block exits as it says and prints the lines under it, in order."""
    outputs = await paste((ROOT / "docs" / "grpc.md").read_text(), places)
    listed = set(re.findall(r"^(nanoclaw\.\w+\.v1\.\w+)\.(\w+)$", "".join(outputs), re.MULTILINE))
    for path in (ROOT / "protos").rglob("*.proto"):
        proto = path.read_text()
        (package,) = re.findall(r"^package (.+);", proto, re.MULTILINE)
        (service,) = re.findall(r"^service (\w+)", proto, re.MULTILINE)
        methods = set(re.findall(r"^  rpc (\w+)\(", proto, re.MULTILINE))
        found = {method for owner, method in listed if owner == f"{package}.{service}"}
        assert found == methods, f"reflection lists every method of {service}"
