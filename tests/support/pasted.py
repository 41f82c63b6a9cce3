"""Shell sessions of the documentation, run as a reader would paste them: block after block, in one shell.

A fenced block marked `sh` is run; one marked `sh refused` must exit with an error. A `text` or `json` block right after
it shows what it prints: its lines are in the output, in that order, whatever stands between and around them. A line `…`
stands for what was left out.
"""

import asyncio
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(sh|text|json)( refused)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_END = "--- end of block, exit"


@dataclass
class Block:
    """Commands, and lines that they must print. line: where it begins in the document."""

    line: int
    commands: str
    refused: bool
    shown: list[str]


def blocks(text: str) -> list[Block]:
    """The sessions of a document, block by block."""
    found: list[Block] = []
    end_of_last = -1
    for match in _FENCE.finditer(text):
        kind, refused, body = match[1], match[2], match[3]
        if kind == "sh":
            found.append(Block(text.count("\n", 0, match.start()) + 1, body, bool(refused), []))
        elif found and end_of_last >= 0 and text[end_of_last : match.start()].strip() == "":
            found[-1].shown += [line.strip() for line in body.splitlines() if line.strip() not in ("", "…")]
        end_of_last = match.end() if kind == "sh" else -1
    return found


def between(text: str, name: str) -> str:
    """What lies between `<!-- name: begin -->` and `<!-- name: end -->`."""
    inside = text.partition(f"<!-- {name}: begin -->")[2].partition(f"<!-- {name}: end -->")[0]
    assert inside, f"no part {name}"
    return inside


async def paste(text: str, replace: Mapping[str, str], *, seconds: float = 50, cwd: Path | None = None) -> list[str]:
    """Runs the document's sessions and checks what they show; answers each block's output, errors among it.

    replace: words of the document and what stands for them here: paths, ports.
    """
    session = blocks(text)
    script = ["set -uo pipefail"]
    for block in session:
        commands = block.commands
        for old, new in replace.items():
            commands = commands.replace(old, new)
        # A refused block runs in a shell of its own, so that `set -e` does not end the session.
        script.append(f"( set -e\n{commands}\n)" if block.refused else f"set -e\n{commands}\nset +e")
        script.append(f'echo "{_END} $?"')
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write("\n".join(script))
        file.flush()
        process = await asyncio.create_subprocess_exec(
            "bash", file.name, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=cwd
        )
        try:
            printed, _ = await asyncio.wait_for(process.communicate(), seconds)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    outputs = re.split(rf"^{_END} (\d+)\n", printed.decode(), flags=re.MULTILINE)
    for number, block in enumerate(session):
        told = outputs[2 * number] if 2 * number < len(outputs) else ""
        where = f"the block at line {block.line}"
        assert 2 * number + 1 < len(outputs), f"{where} failed:\n{told}"
        assert (outputs[2 * number + 1] != "0") is block.refused, f"{where} exits {outputs[2 * number + 1]}:\n{told}"
        position = 0
        for line in block.shown:
            found = told.find(line, position)
            assert found >= 0, f"{where} does not print {line!r}, or not there:\n{told}"
            position = found + len(line)
    return outputs[0:-1:2]
