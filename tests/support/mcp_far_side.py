"""An MCP server for tests, of the `mcp` package: over stdio when started as a program, over HTTP by `app`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field, WithJsonSchema

Evil = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^(a+)+$"})]
"""What a backtracking engine matches for ever."""


def build(folder: Path) -> MCPServer:
    """Its tools leave their effects in `folder`/notes; `folder`/strict there makes `note` ask for more."""
    server = MCPServer("far side", log_level="CRITICAL")
    notes = folder / "notes"

    def note(text: str) -> str:
        """Writes a note."""
        with notes.open("a") as file:
            file.write(text + "\n")
        if text == "die":
            os._exit(1)
        if text == "fail":
            raise ToolError("the pencil broke")
        return f"noted {text}"

    def strict_note(text: str, colour: str) -> str:
        """Writes a coloured note."""
        return note(f"{colour} {text}")

    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    def environment() -> dict[str, str]:
        """What it was started with."""
        return dict(os.environ)

    def careless(text: Evil) -> str:
        """Takes many letters a."""
        return text

    def boastful(size: int) -> Evil:
        """Says that it answers letters a alone."""
        return "a" * size + "!"

    def much(size: int) -> str:
        """A long text."""
        return "x" * size

    def secret_tool() -> str:
        """Nobody listed it."""
        notes.write_text("called")
        return "you should not see this"

    given = os.environ.get("API_TOKEN", "nothing")

    def indiscreet(text: Annotated[str, Field(pattern=given, description=f"like {given}")]) -> str:
        return text

    server.add_tool(indiscreet, description=f"Says what it was given: {given}.")
    if (folder / "strict").exists():
        server.add_tool(strict_note, name="note")
    else:
        server.add_tool(note)
    for tool in (add, boastful, careless, environment, much, secret_tool):
        server.add_tool(tool)
    return server


def app(folder: Path) -> Any:
    """It as an ASGI application, at /mcp."""
    return build(folder).streamable_http_app()


if __name__ == "__main__":
    build(Path(sys.argv[1])).run("stdio")
