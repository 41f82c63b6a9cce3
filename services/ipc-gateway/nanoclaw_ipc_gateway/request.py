"""A request file's content: its type, its fields under their wire names, and every violation at once."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nanoclaw_core.errors import Kind, NanoclawError, Violation
from nanoclaw_core.ids import check_group, check_name
from nanoclaw_ipc_gateway.words import GATES, LEVELS, PRIORITIES, SCOPES, STATES, TASK_TYPES


def _name(value: str) -> str:
    try:
        return check_name("it", value)
    except NanoclawError as error:
        raise ValueError(error.violations[0].message) from None


def _group(value: str) -> str:
    try:
        return check_group("it", value)
    except NanoclawError as error:
        raise ValueError(error.violations[0].message) from None


def _one_of(words: Mapping[Any, int]) -> Any:
    def check(value: Any) -> Any:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(map(str, words))}")
        return value

    return AfterValidator(check)


def _integral(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _level(value: Any) -> Any:
    return int(value[1]) if value in ("L0", "L1", "L2", "L3") else _integral(value)


Name = Annotated[str, AfterValidator(_name)]
Group = Annotated[str, AfterValidator(_group)]
Text = Annotated[str, Field(min_length=1)]


class Request(BaseModel):
    """What every request may carry. Members that are not named are ignored: what a file claims about its sender, too.

    A member that is null counts as absent. traceparent and span are looked at later, and bad ones ignored: they are for
    traces, and decide nothing.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")
    request_id: Name | None = None
    traceparent: Any = None
    span: Any = None

    @property
    def key(self) -> str:
        """Requests of a group under one key are handled one after the other, in the order they were written."""
        return self.task

    @property
    def task(self) -> str:
        """The id of the task that it is about, if it names one."""
        return ""


class GovCreate(Request):
    """A new task, in INBOX."""

    title: Text
    description: str | None = None
    task_type: Annotated[str, _one_of(TASK_TYPES)]
    priority: Annotated[str, _one_of(PRIORITIES)] | None = None
    product: str | None = None
    product_id: Name | None = None
    scope: Annotated[str, _one_of(SCOPES)] | None = None
    assigned_group: Group | None = None
    gate: Annotated[str, _one_of(GATES)] | None = None
    metadata: dict[str, Any] | None = None
    id: Name | None = None

    @property
    def task(self) -> str:
        """The id that it chooses, if it does."""
        return self.id or ""


class OnTask(Request):
    """A request about one task."""

    taskId: Name

    @property
    def task(self) -> str:
        """The task's id."""
        return self.taskId


class GovTransition(OnTask):
    """A task along one edge; to REVIEW the reason is the summary of the work."""

    toState: Annotated[str, _one_of(STATES)]
    reason: str | None = None
    expectedVersion: Annotated[int, BeforeValidator(_integral), Field(ge=0, lt=2**63)] | None = None


class GovApprove(OnTask):
    """The gate of a task, approved."""

    gate_type: Annotated[str, _one_of(GATES)]
    notes: str | None = None


class GovAssign(OnTask):
    """The group that will work on a task; `executor` is a note."""

    assigned_group: Group
    executor: str | None = None


class ExtCall(Request):
    """One effect, asked of the broker. Named by the agent, and signed."""

    request_id: Name
    provider: Text
    action: Text
    params: dict[str, Any]
    task_id: Name | None = None
    idempotency_key: str | None = None

    @property
    def task(self) -> str:
        """The task that it is made for."""
        return self.task_id or ""


class ExtGrant(Request):
    """Access to a provider for a group, level 0 to 3."""

    group_folder: Group
    provider: Text
    access_level: Annotated[int, BeforeValidator(_level), _one_of(LEVELS)]
    allowed_actions: list[str] | None = None
    denied_actions: list[str] | None = None
    requires_task_gate: str | None = None
    product_id: Name | None = None

    @property
    def key(self) -> str:
        """The grant's."""
        return f"grant {self.group_folder} {self.provider}"


class ExtRevoke(Request):
    """The end of a grant."""

    group_folder: Group
    provider: Text
    product_id: Name | None = None

    @property
    def key(self) -> str:
        """The grant's."""
        return f"grant {self.group_folder} {self.provider}"


class ExtPending(Request):
    """What waits for votes: calls that the group may vote on, and its own."""

    task_id: Name | None = None


class ExtVote(Request):
    """A vote on a call that waits, for the parameters that the digest stands for."""

    call_id: Name
    params_digest: Text
    notes: str | None = None

    @property
    def key(self) -> str:
        """The call's."""
        return f"call {self.call_id}"


class Unserved(Request):
    """A type that is known and that nobody serves yet."""


class AgentMessage(Request):
    """Words for the operator. `sender` is a claim, and decides nothing."""

    text: Text
    sender: str | None = None


SERVED: dict[str, type[Request]] = {
    "gov_create": GovCreate,
    "gov_transition": GovTransition,
    "gov_approve": GovApprove,
    "gov_assign": GovAssign,
    "ext_call": ExtCall,
    "ext_grant": ExtGrant,
    "ext_revoke": ExtRevoke,
    "ext_pending": ExtPending,
    "ext_approve": ExtVote,
    "ext_reject": ExtVote,
}
UNSERVED = frozenset(
    {
        *("runtime_query", "runtime_simulate"),
        *("schedule_task", "pause_task", "resume_task", "cancel_task"),
        *("register_group", "refresh_groups", "mem_store", "mem_recall", "skills_config"),
    }
)
MESSAGES: dict[str, type[Request]] = {"message": AgentMessage}
TASKS: dict[str, type[Request]] = SERVED | dict.fromkeys(UNSERVED, Unserved)


class Parsed(NamedTuple):
    """A request that is well-formed."""

    type: str
    body: Request


def parse(value: Mapping[str, Any], types: Mapping[str, type[Request]] = TASKS) -> Parsed:
    """A request of one of the types.

    Raises NanoclawError UNKNOWN_TYPE (the file is no request), or INVALID_FIELD with a violation for each bad field.
    """
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in types:
        shown = f"{kind[:60]!a}" if isinstance(kind, str) else "none"
        raise NanoclawError(
            Kind.INVALID,
            "UNKNOWN_TYPE",
            f"no request has the type {shown}",
            next_step=f"known ones are {', '.join(sorted(types))}",
        )
    try:
        return Parsed(kind, types[kind].model_validate(value))
    except ValidationError as error:
        raise _refusal(kind, error) from None


def named(value: Mapping[str, Any]) -> str:
    """The request_id that a request names itself by, or empty where it names none that could be a file's name."""
    try:
        return check_name("request_id", value.get("request_id") or "")
    except (NanoclawError, TypeError):
        return ""


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:]


def _refusal(kind: str, error: ValidationError) -> NanoclawError:
    violations = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False)[:20]:
        field = ".".join(map(str, problem["loc"]))[:200]
        missing = problem["type"] == "missing"
        message = "is missing" if missing else _sentence(problem["msg"].removeprefix("Value error, "))
        step = f"add {field} to the {kind}" if missing else f"{field}: {message}"
        violations.append(Violation("INVALID_FIELD", message, step, field))
    text = "; ".join(f"{violation.field} {violation.message}" for violation in violations)
    return NanoclawError(Kind.INVALID, "INVALID_FIELD", text, violations=violations, type=kind)
