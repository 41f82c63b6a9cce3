"""The demo's one write to the outside world: what it needs in a home, and what must be true of it in the end."""

import os
import secrets as random
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_cli.outside import Outside
from nanoclaw_cli.words import CALL_STATES
from nanoclaw_core.principal import Role
from nanoclaw_rpc import Credentials, private

APPROVER = "demo-approver"
"""The second operator who votes; there for as long as the demo plays."""
VOTERS = ("founder", APPROVER)
_BEARER = "nanoclaw_demo_token"
_TABLE = '# of `nanoclaw demo`, for as long as it plays\n[http.write."{host}"]\nbearer_secret = "{secret}"\n'
_LIMITS = {"RATE": "60", "SOFT": "1000", "HARD": "1000"}
"""Of L3 calls, each of which takes two votes anyway: else nobody could see the demo three times within a minute."""


@dataclass
class Announcement:
    """A POST by the group `developer` to an API that wants a token, which the broker alone holds.

    home: NANOCLAW_HOME. secrets: its folder of secrets. What is put there has names of the demo's own, and goes at the
    end; what a killed demo left is replaced. The operator's config/providers.toml is not touched.
    """

    home: Path
    secrets: Path
    url: str = ""
    _token: str = field(default_factory=lambda: f"demo-{random.token_urlsafe(24)}", repr=False)
    _since: float = 0.0

    def __post_init__(self) -> None:
        self._outside = Outside(self._token)

    def environ(self, given: Mapping[str, str]) -> dict[str, str]:
        """What the broker is told beside what it is told already."""
        files = [given.get("NANOCLAW_BROKER_PROVIDERS", ""), str(self._file)]
        limits = {f"NANOCLAW_BROKER_{name}_L3": value for name, value in _LIMITS.items()}
        return {**limits, **given, "NANOCLAW_BROKER_PROVIDERS": ",".join(filter(None, files))}

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """The API serves, the broker will find its token and its table, and there is a second operator to vote."""
        self._since = time.time()
        credentials = Credentials.open(self.secrets)
        if credentials.find(f"operator:{APPROVER}") is not None:
            credentials.remove(f"operator:{APPROVER}")
        secret = self.secrets / "broker" / _BEARER
        with self._outside.serving() as host:
            self.url = f"http://{host}/announcements"
            try:
                credentials.add_operator(APPROVER, Role.APPROVER)
                secret.parent.mkdir(exist_ok=True, mode=0o700)
                private.write(secret, self._token + "\n")
                private.write(self._file, _TABLE.format(host=host, secret=_BEARER))
                yield
            finally:
                self._file.unlink(missing_ok=True)
                secret.unlink(missing_ok=True)
                if credentials.find(f"operator:{APPROVER}") is not None:  # none where making it failed
                    credentials.remove(f"operator:{APPROVER}")

    def findings(self, call: pb.CallRecord | None) -> list[str]:
        """What is not as it must be: of the ledger's row, of what arrived outside, of what lies where agents read."""
        found = [] if call is not None else ["nobody asked for the write"]
        if call is not None and call.state != pb.CALL_STATE_EXECUTED:
            found.append(f"the ledger says {CALL_STATES.word(call.state)} ({call.code}) of the write, not EXECUTED")
        voted = sorted(vote.principal for vote in call.votes) if call is not None else []
        if call is not None and voted != sorted(f"operator:{name}" for name in VOTERS):
            found.append(f"the write has the votes of {', '.join(voted) or 'nobody'}")
        if [one.allowed for one in self._outside.sent] != [True]:
            with_token = sum(one.allowed for one in self._outside.sent)
            found.append(f"{len(self._outside.sent)} requests arrived outside, {with_token} with the token, not one")
        folders = (self.home / "groups" / "developer", self.home / "ipc" / "developer", self.home / "attempts")
        return found + leaks(folders, self._token, self._since)

    @property
    def _file(self) -> Path:
        return self.home.absolute() / "run" / "demo-providers.toml"


def leaks(folders: tuple[Path, ...], token: str, since: float) -> list[str]:
    """Of the files below these folders that were changed since then (Unix seconds): which hold the token."""
    files = (Path(where) / name for folder in folders for where, _, names in os.walk(folder) for name in names)
    return [finding for path in files if (finding := _leak(path, token, since))]


def _leak(path: Path, token: str, since: float) -> str:
    """Empty where there is none. Agents may put links and pipes there: those are not opened."""
    try:
        found = path.lstat()
        changed = found.st_ctime >= since - 1  # unlike the other times no program can set it
        if not stat.S_ISREG(found.st_mode) or not changed or token.encode() not in path.read_bytes():
            return ""
    except FileNotFoundError:
        return ""
    except PermissionError:
        return f"{path} can't be searched for the token"
    return f"the token lies in {path}"
