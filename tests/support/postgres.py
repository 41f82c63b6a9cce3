"""A PostgreSQL server of a test's own, from the system's packages."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BIN = next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)
"""Where its programs are; None where it is not installed."""


def _as_postgres() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def postgres(password: str) -> Iterator[str]:
    """A PostgreSQL server of our own, on a unix socket; its URL without a database."""
    assert BIN is not None
    folder = Path(tempfile.mkdtemp(prefix="nc-pg-", dir="/tmp"))
    try:
        shutil.chown(folder, *((_as_postgres()["user"], _as_postgres()["group"]) if _as_postgres() else (os.getuid(),)))
        (file := folder / "password").write_text(password)
        file.chmod(0o644)
        data = folder / "data"
        initdb = [BIN / "initdb", "-D", data, "-U", "owner", f"--pwfile={file}", "-A", "scram-sha-256", "-N"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **_as_postgres())
        options = "-c fsync=off -c listen_addresses= -c max_connections=20"
        running = subprocess.Popen(
            [BIN / "postgres", "-D", data, "-k", folder, *options.split()],
            stderr=subprocess.DEVNULL,
            cwd=folder,
            **_as_postgres(),
        )
        try:
            wait = [BIN / "pg_isready", "-q", "-h", folder, "-U", "owner"]
            while subprocess.run(wait, check=False).returncode != 0:
                assert running.poll() is None
            yield f"postgresql://owner@/postgres?host={folder}"
        finally:
            running.terminate()
            running.wait(10)
    finally:
        shutil.rmtree(folder)
