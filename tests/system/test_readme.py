"""The README's grpcurl session works when it is pasted."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from nanoclaw_cli.services import SERVICES
from nanoclaw_cli.supervisor import Supervisor

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.skipif(
    shutil.which("grpcurl") is None,
    reason="grpcurl is not installed (go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3)",
)
async def test_the_grpcurl_session_of_the_readme_works_when_pasted(ports: dict[str, int], system: Supervisor) -> None:
    """Every line exits 0, and the answers are what the text around them says."""
    session = README.read_text().partition("<!-- session: begin -->")[2].partition("<!-- session: end -->")[0]
    script = re.search(r"```sh\n(.*?)```", session, re.DOTALL)
    assert script is not None
    text = script[1].replace("var/secrets", f"{system.home}/secrets")
    for service in SERVICES:
        text = text.replace(f"127.0.0.1:{service.port}", f"127.0.0.1:{ports[service.name]}")
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", text),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = (part.decode() for part in await asyncio.wait_for(process.communicate(), 50))
    assert process.returncode == 0, err
    assert "nanoclaw.governance.v1.GovernanceService.TransitionTask" in out
    assert '"state": "TASK_STATE_INBOX"' in out
    assert "NO_SUCH_EDGE" in out or '"violations"' in out
    assert '"action": "transition"' in out
