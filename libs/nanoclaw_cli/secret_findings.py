"""What is to be said of each secret: from its file, from what providers need, and from what the broker holds."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_core import secret_files
from nanoclaw_core.errors import Kind, NanoclawError

_RELOAD = "send the broker SIGHUP"


@dataclass(frozen=True, slots=True)
class Finding:
    """One secret. state: a word such as `missing`. note: why, and the next step. wrong: somebody must do something."""

    name: str
    state: str
    used_by: tuple[str, ...] = ()
    note: str = ""
    wrong: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "state": self.state,
            "used_by": list(self.used_by),
            "note": self.note,
            "wrong": self.wrong,
        }


def by_files(folder: Path) -> list[Finding]:
    """What the broker would make of the files at its next start; none where there is no folder. Raises NOT_READABLE."""
    try:
        return [_of_file(path) for path in sorted(folder.iterdir())] if folder.exists() else []
    except OSError as error:
        raise NanoclawError(
            Kind.UNAVAILABLE,
            "NOT_READABLE",
            f"{folder} can't be listed: {error.strerror}",
            next_step="run the check as the user that the broker runs as",
        ) from None


def _of_file(path: Path) -> Finding:
    if not secret_files.is_name(path.name):
        return Finding(path.name, "ignored", note="not a name like [a-z][a-z0-9_]*, so it is never read")
    try:
        secret_files.read(path)
    except NanoclawError as error:
        state = error.reason.removeprefix("SECRET_").replace("_", " ").lower()
        note = f"{error.message}: {error.next_step}; until then the broker does not start, and keeps the old ones"
        return Finding(path.name, state, note=note, wrong=True)
    return Finding(path.name, "readable")


def by_uses(providers: Iterable[pb.Provider], held: Collection[str], files: Sequence[Finding]) -> list[Finding]:
    """What a running broker says, and what its files say where they can be seen from here."""
    uses: dict[str, dict[str, pb.SecretUse.Need.ValueType]] = {}
    for provider in providers:
        for use in provider.secrets:
            uses.setdefault(use.name, {})[provider.name] = use.need
    by_name = {one.name: one for one in files}
    return [
        _of_use(name, uses.get(name, {}), name in held, by_name.get(name)) for name in sorted({*uses, *held, *by_name})
    ]


def _of_use(name: str, needs: dict[str, pb.SecretUse.Need.ValueType], held: bool, file: Finding | None) -> Finding:
    used_by = tuple(sorted(needs))
    if file is not None and file.wrong:
        return replace(file, used_by=used_by)
    if file is not None and not held:
        return Finding(name, "not read", used_by, f"its file came after the broker read them; {_RELOAD}", wrong=True)
    if held and not needs:
        return Finding(name, "unused", (), "no provider asks for it; remove its file if nobody will")
    if held:
        return Finding(name, "held", used_by)
    if pb.SecretUse.NEED_WHOLLY in needs.values():
        note = f"every call of it is refused; put it into a file of this name, mode 0600, and {_RELOAD}"
        return Finding(name, "missing", used_by, note, wrong=True)
    if pb.SecretUse.NEED_IN_PART in needs.values():
        note = f"calls that need it are refused; put it into a file of this name, mode 0600, and {_RELOAD}"
        return Finding(name, "missing", used_by, note, wrong=True)
    return Finding(name, "absent", used_by, "used where it is there")
