"""Who calls: a principal such as `operator:ana` or `group:developer`, and how it was established."""

import enum
from dataclasses import dataclass


class Role(enum.StrEnum):
    """What an operator may do; other principals have none."""

    ADMIN = "admin"
    APPROVER = "approver"
    VIEWER = "viewer"
    NONE = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified caller.

    principal: `operator:{name}`, `service:{name}` or `group:{name}`. role: an operator's. via: the service that
    attested a group (`service:gateway`), else empty. attempt: the attempt that the gateway attested, else empty.
    """

    principal: str
    role: Role = Role.NONE
    via: str = ""
    attempt: str = ""

    @property
    def kind(self) -> str:
        """operator, service or group."""
        return self.principal.partition(":")[0]

    @property
    def name(self) -> str:
        """What comes after the kind."""
        return self.principal.partition(":")[2]

    @property
    def group(self) -> str:
        """The group's name, or empty for who is none."""
        return self.name if self.kind == "group" else ""

    @property
    def is_admin(self) -> bool:
        """An operator with the role admin."""
        return self.kind == "operator" and self.role is Role.ADMIN

    @property
    def is_main(self) -> bool:
        """The group main: an agent too."""
        return self.principal == "group:main"

    def is_service(self, name: str) -> bool:
        """Whether it is that service itself, not somebody it speaks for."""
        return self.principal == f"service:{name}"
