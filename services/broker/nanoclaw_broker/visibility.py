"""Whose calls and grants a caller may see; pure."""

from nanoclaw_broker.granting import check_grantee
from nanoclaw_core.errors import denied, invalid
from nanoclaw_core.principal import Caller


def grantee(caller: Caller) -> str:
    """Whose grants a caller's own calls rest on: its group's, or a person's, named as the principal is."""
    return caller.group or caller.principal


def visible_group(caller: Caller, asked: str) -> str:
    """The group to answer about; empty: all. A group sees its own, main and everybody else what they ask for.

    Raises DENIED OTHER_GROUP.
    """
    if caller.group and not caller.is_main:
        if asked not in ("", caller.group):
            raise denied("OTHER_GROUP", f"{caller.principal} sees its own calls and grants only", "leave group out")
        return caller.group
    return asked


def explained_group(caller: Caller, asked: str) -> str:
    """The group that an ExplainCall is about: one's own, or for admins and services the one named.

    Raises DENIED OTHER_GROUP, INVALID_FIELD where a service names none.
    """
    if asked in ("", grantee(caller)):
        if caller.kind == "service":
            raise invalid("group", "is empty", "say for which group to explain")
        return grantee(caller)
    if caller.is_admin or caller.kind == "service":
        return check_grantee("group", asked)
    raise denied("OTHER_GROUP", f"{caller.principal} may not ask what {asked} may do", "leave group out")
