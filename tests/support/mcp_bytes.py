"""An MCP server that answers calls with whatever bytes it is told to, over stdio when started as a program."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

ID = b"@ID@"
"""In a reply: the id of the request."""


def hello(request: Any, tools: list[str]) -> Any:
    """What a right server answers to anything but a call; None where nothing is to be answered."""
    method = request.get("method")
    if "id" not in request:
        return None
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
    if method == "initialize":
        version = request["params"]["protocolVersion"]
        info = {"name": "bytes", "version": "1"}
        return {**answer, "result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}}
    if method == "tools/list":
        return {**answer, "result": {"tools": [{"name": one, "inputSchema": {"type": "object"}} for one in tools]}}
    if method == "ping":
        return {**answer, "result": {}}
    return {**answer, "error": {"code": -32601, "message": "no such method"}}


def main(folder: Path) -> None:
    """Replies lie in `folder`/reply; with `folder`/leaves it goes after one, with `folder`/stays not at the end."""
    if (folder / "stays").exists():
        (folder / "stays").write_text(str(os.getpid()))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if request.get("method") == "tools/call":
            reply = (folder / "reply").read_bytes().replace(ID, json.dumps(request["id"]).encode())
            os.write(1, reply) if len(reply) < 65_536 else sys.stdout.buffer.write(reply)
            sys.stdout.buffer.flush()
            if (folder / "leaves").exists():
                return
        elif (answer := hello(request, ["note", "look"])) is not None:
            os.write(1, json.dumps(answer).encode() + b"\n")
    while (folder / "stays").exists():
        signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
