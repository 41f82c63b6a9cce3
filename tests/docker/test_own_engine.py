"""A run of these tests that is killed leaves no engine behind."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import engines
import own_engine
import pytest

pytestmark = pytest.mark.docker

RUN = """
import sys
from pathlib import Path
from engines import client, shell_image
from own_engine import OwnEngine
engine = OwnEngine(Path(sys.argv[1]), 48)
image = shell_image(engine.host)
with client(engine.host) as api:
    one = api.create_container(image, ["sh", "-c", "while :; do sleep 1; done"], host_config={"NetworkMode": "none"})
    api.start(one)
    print(engine.network, api.inspect_container(one)["State"]["Pid"], flush=True)
sys.stdin.read()
"""


def test_an_engine_ends_with_the_run_that_was_killed() -> None:
    """Its processes, those of its containers, what it mounted, its network and its folder."""
    engines.require_engine()
    folder = Path(tempfile.mkdtemp(prefix="nc-engine-", dir="/tmp"))
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(engines.__file__).parent)!r})\n{RUN}"]
    with subprocess.Popen([*command, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        said = run.stdout.readline()
        run.kill()
    if not said:
        pytest.skip("no engine of our own runs here")
    network, process = said.split()
    left = [folder, Path("/run/netns", network), Path("/proc", process)]
    deadline = time.monotonic() + 40
    while any(path.exists() for path in left):
        assert time.monotonic() < deadline, [path for path in left if path.exists()]
        time.sleep(0.05)
    assert str(folder) not in Path("/proc/mounts").read_text()
    assert not list(own_engine._processes(folder))
