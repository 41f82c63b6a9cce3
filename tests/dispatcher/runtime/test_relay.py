"""The model relay as an agent sees it: its folder, read-only, whatever runs the agent; nothing of it without one."""

import dataclasses
import json
import socket
from pathlib import Path
from typing import Any

from nanoclaw_dispatcher import code_mounts, container_spec
from nanoclaw_dispatcher.attempt_spec import AttemptSpec
from nanoclaw_dispatcher.container_site import Site
from nanoclaw_dispatcher.group import Group, Role

LOOK = """
import json, os, socket
path = os.environ["NANOCLAW_RELAY_SOCKET"]
found = [path]
with socket.socket(socket.AF_UNIX) as s:
    s.connect(path)
    found.append("connected")
for attempt in (lambda: os.unlink(path), lambda: open(path + "x", "w"), lambda: os.rename(path, path + "x")):
    try:
        attempt()
        found.append("done")
    except OSError as error:
        found.append(error.strerror)
print(json.dumps(found))
"""


async def test_it_can_be_used_and_not_be_replaced(sandboxed: Any) -> None:
    """An agent that put its own socket there would fool who comes after it."""
    relay = sandboxed.home / "attempts" / "a-1" / "relay"
    relay.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(relay / "llm.sock"))
        listening.listen()
        spec = sandboxed.spec("a-1", "", command=(code_mounts.PYTHON, "-S", "-c", LOOK))
        await sandboxed.runtime.create(dataclasses.replace(spec, relay=relay))
        await sandboxed.runtime.start("a-1")
        ended = await sandboxed.runtime.wait("a-1")
    said = await sandboxed.runtime.last_lines("a-1")
    assert ended.exit_code == 0, said
    assert json.loads(said.splitlines()[-1]) == [
        "/workspace/relay/llm.sock",
        "connected",
        *["Read-only file system"] * 3,
    ]


async def test_without_one_there_is_nothing(sandboxed: Any) -> None:
    """Neither the folder nor the variable."""
    program = "import os; print(os.path.exists('/workspace/relay'), 'NANOCLAW_RELAY_SOCKET' in os.environ)"
    await sandboxed.started("a-1", "", command=(code_mounts.PYTHON, "-S", "-c", program))
    await sandboxed.runtime.wait("a-1")
    assert (await sandboxed.runtime.last_lines("a-1")).splitlines()[-1] == "False False"


def test_a_container_gets_the_same(tmp_path: Path) -> None:
    """Its folder as the engine's machine knows it, read-only, and the variable."""
    site = Site(tmp_path, "/srv/nanoclaw", "", "image", 10002, "")
    mailbox = tmp_path / "attempts" / "a-1" / "ipc"
    spec = AttemptSpec("a-1", "key", "t1", Group("developer", Role.EXECUTOR, ("agent",)), mailbox, "{}\n")
    without = container_spec.configuration(spec, site, {})
    given = container_spec.configuration(dataclasses.replace(spec, relay=mailbox.with_name("relay")), site, {})
    mounts = [one for one in given["HostConfig"]["Mounts"] if one not in without["HostConfig"]["Mounts"]]
    source, target = "/srv/nanoclaw/attempts/a-1/relay", "/workspace/relay"
    assert mounts == [{"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}]
    assert set(given["Env"]) - set(without["Env"]) == {"NANOCLAW_RELAY_SOCKET=/workspace/relay/llm.sock"}
