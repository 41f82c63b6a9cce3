"""Clients as docs/clients.md makes them: the wheel in a fresh environment, Go and TypeScript generated and built."""

import asyncio
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from pasted import between, paste

from nanoclaw_cli.supervisor import Supervisor

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text()


def said(name: str) -> str:
    """What the page promises that each example prints."""
    return PAGE.partition("```text\n")[2].partition("```")[0].replace("hello is", f"hello-{name} is")


@pytest.fixture
def clone(tmp_path: Path, ports: dict[str, int], system: Supervisor) -> tuple[Path, str]:
    """A copy of what the page speaks of, where its lines can write; and the address of governance."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    generated = shutil.ignore_patterns("node_modules", "gen", "out", "nanoclaw", "hello")
    shutil.copytree(ROOT / "docs" / "clients", tmp_path / "docs" / "clients", ignore=generated)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "var").symlink_to(system.home)
    return tmp_path, f"127.0.0.1:{ports['governance']}"


@pytest.mark.system
async def test_the_wheel_brings_the_stubs_and_a_program_can_call_with_them(
    clone: tuple[Path, str], tmp_path: Path
) -> None:
    """Built without a network, installed without this checkout: what is imported is the wheel's."""
    where, address = clone
    built = tmp_path / "dist"
    await run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)], ROOT)
    (wheel,) = built.glob("nanoclaw_os-*.whl")
    fresh = tmp_path / "fresh"
    await run([sys.executable, "-m", "venv", "--without-pip", str(fresh)], ROOT)
    python = fresh / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    await run([*pip, "--no-compile", str(wheel)], ROOT)
    # Its dependencies are those of this environment; a path file does not bring in what is linked there.
    (site,) = fresh.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    for name in (path.stem for path in (ROOT / "protos").rglob("*.proto")):
        probe = f"from nanoclaw.{name}.v1 import {name}_pb2_grpc as stubs; print(stubs.__file__)"
        assert (await run([str(python), "-P", "-c", probe], where)).startswith(str(fresh))
    lines = between(PAGE, "python").replace("python docs", f"{python} -P docs")
    (out,) = await paste(lines, {"127.0.0.1:50051": address, "export": "unset PYTHONPATH; export"}, cwd=where)
    assert out == said("python")


@pytest.mark.clients
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed")
async def test_the_go_client_is_generated_built_and_calls(clone: tuple[Path, str]) -> None:
    """By the lines of the page."""
    where, address = clone
    (out,) = await paste(between(PAGE, "go"), {"127.0.0.1:50051": address}, seconds=550, cwd=where)
    assert out.endswith(said("go"))


@pytest.mark.clients
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
async def test_the_typescript_client_is_generated_compiled_and_calls(clone: tuple[Path, str]) -> None:
    """By the lines of the page."""
    where, address = clone
    (out,) = await paste(between(PAGE, "ts"), {"127.0.0.1:50051": address}, seconds=550, cwd=where)
    assert out.endswith(said("ts"))


async def run(command: list[str], cwd: Path) -> str:
    """What a command prints; it must not fail."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()
