"""The groups of agents as they are configured, in config/groups.toml or as packaged."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.ids import check_group
from nanoclaw_dispatcher.group import Group, Mount, Role
from nanoclaw_dispatcher.group_keys import KEYS, READERS, Wrong, refuse_unknown, table

__all__ = ["KEYS", "PACKAGED", "Group", "Groups", "Mount", "Role", "load", "parse"]

PACKAGED = Path(__file__).with_name("groups.toml")


@dataclass(frozen=True, slots=True)
class Groups:
    """All groups, by name, in the order of the file."""

    by_name: Mapping[str, Group]

    def get(self, name: str) -> Group | None:
        """The group, or None."""
        return self.by_name.get(name)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.by_name.values())

    def __len__(self) -> int:
        return len(self.by_name)


def load(path: Path | None = None, *, runtime: str = "process") -> Groups:
    """The groups of the file at `path`; the packaged ones where it is None or does not exist. runtime: of groups that
    name none.

    Raises NanoclawError INVALID_GROUPS that names the file, the group and the key.
    """
    chosen = path if path is not None and path.exists() else PACKAGED
    try:
        return parse(chosen.read_text(encoding="utf-8"), runtime=runtime)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _refused(str(chosen), str(error)) from None
    except Wrong as wrong:
        raise _refused(str(chosen), str(wrong)) from None


def parse(text: str, *, runtime: str = "process") -> Groups:
    """The groups of a TOML text; see `load`. Raises ValueError that names the group and the key."""
    document = tomllib.loads(text)
    refuse_unknown(document, {"defaults", "groups"}, "")
    defaults = table(document.get("defaults", {}), "defaults")
    refuse_unknown(defaults, KEYS - {"role"}, "defaults.")
    found: dict[str, Group] = {}
    for name, value in table(document.get("groups", {}), "groups").items():
        where = f"groups.{name}."
        try:
            check_group("group", name)
        except NanoclawError as error:
            raise Wrong(f"{where[:-1]}: {error.message}") from None
        keys = table(value, where[:-1])
        refuse_unknown(keys, KEYS, where)
        if "role" not in keys:
            raise Wrong(f"{where}role: is missing; it is main, executor or approver")
        merged = {"runtime": runtime, **defaults, **keys}
        found[name] = Group(name=name, **{key: READERS[key](merged[key], where + key) for key in merged})
    if [group.name for group in found.values() if group.is_main] != ["main"]:
        raise Wrong("groups: exactly one has the role main, and it is called main")
    return Groups(MappingProxyType(found))


def _refused(path: str, message: str) -> NanoclawError:
    return NanoclawError(
        Kind.INVALID, "INVALID_GROUPS", f"{path}: {message}", next_step="correct the file and restart the dispatcher"
    )
