"""The session of docs/broker.md works when it is pasted: a write at L3 that waits for two votes."""

import shutil
import sys
from pathlib import Path

import pytest
from pasted import between, paste
from ports import free_ports

PAGE = (Path(__file__).parents[2] / "docs" / "broker.md").read_text()


@pytest.mark.system
@pytest.mark.timeout(90)
@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
async def test_two_votes_on_a_write_by_hand(short_home: Path) -> None:
    """Every block exits as it says and prints what stands under it."""
    (port,) = free_ports(1)
    words = {
        '"$PWD/var"': f"{short_home} PATH={Path(sys.executable).parent}:$PATH",
        "up --detach": "up --detach --no-ports",
    }
    try:
        await paste(between(PAGE, "l3").replace("8199", str(port)), words, seconds=80)
    finally:
        await paste(f"```sh\nexport NANOCLAW_HOME={short_home}\n{sys.executable} -m nanoclaw_cli stop\n```", {})
