"""The variant of the agents' image with a coding agent's command line: what that is started with."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "deploy" / "coding-agent"

RECORDER = """#!/bin/sh
printf '%s\\n' "$@" >"$SEEN/arguments"
cat >"$SEEN/stdin"
exit 7
"""


def test_the_command_line_gets_the_prompt_and_our_mcp_server(tmp_path: Path) -> None:
    """The prompt of the opening line on stdin, the MCP configuration, and its exit code is the agent's."""
    (tmp_path / "claude").write_text(RECORDER)
    (tmp_path / "claude").chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SEEN": str(tmp_path)}
    line = json.dumps({"prompt": "Fix login\nand say how", "taskId": "t1"}) + "\n"
    ran = subprocess.run([FOLDER / "work"], input=line, text=True, env=environ, timeout=20)
    assert ran.returncode == 7
    assert (tmp_path / "stdin").read_text().rstrip("\n") == "Fix login\nand say how"
    assert (tmp_path / "arguments").read_text().split("\n")[1:3] == ["--mcp-config", "/opt/cli/mcp.json"]


def test_the_mcp_configuration_names_a_module_of_the_kit() -> None:
    """It is what any MCP client reads, and starts what the agents' image holds."""
    server = json.loads((FOLDER / "mcp.json").read_text())["mcpServers"]["nanoclaw"]
    assert server["args"][0] == "-m"
    assert importlib.util.find_spec(server["args"][1]) is not None
