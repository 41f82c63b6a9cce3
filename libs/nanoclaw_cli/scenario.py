"""What the demo asks of the system: two products, two grants, and six tasks that between them take every path."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.governance.v1 import governance_pb2 as pb


@dataclass(frozen=True, slots=True)
class Story:
    """One task of the demo. states: the path it must have taken. refusal: or the reason it is refused with."""

    name: str
    request: pb.CreateTaskRequest
    states: tuple[str, ...] = ()
    refusal: str = ""
    rework: int = 0


_STRAIGHT = ("INBOX", "TRIAGED", "READY", "DOING", "REVIEW", "APPROVAL", "DONE")
_REWORKED = (*_STRAIGHT[:6], "REVIEW", "DOING", "REVIEW", "APPROVAL", "DONE")
_BLOCKED = (*_STRAIGHT[:4], "BLOCKED", "DOING", "REVIEW", "APPROVAL", "DONE")

_TOTALS = """\
Add up what the signup experiment cost, by channel, through the broker.

do: call json transform {"expression": "{cents: sum(spend[*].cents), channels: spend[*].channel}", \
"data": {"spend": [{"channel": "mail", "cents": 1250}, {"channel": "search", "cents": 3400}]}}
do: write totals.md: Signup experiment: 46.50 over two channels.
"""


_ANNOUNCE = """\
Announce the signup to customers: a write that can't be taken back, so two operators vote on the very call.

do: call http post {"url": "%s", "json": {"title": "Signup opens on Monday", "audience": "customers"}} -> announced.json
"""


def products(run: str) -> tuple[pb.CreateProductRequest, pb.CreateProductRequest]:
    """The product that the work is for, and one that gets killed."""
    return (
        pb.CreateProductRequest(request_id=f"{run}-product", id=f"{run}-atlas", name=f"Atlas {run}"),
        pb.CreateProductRequest(request_id=f"{run}-killed", id=f"{run}-relic", name=f"Relic {run}"),
    )


def grants(run: str) -> list[broker.GrantRequest]:
    """Lets the developer group transform JSON for the product, and ask for the one kind of write, for a day."""
    pure = broker.GrantRequest(provider="json", access_level=broker.ACCESS_LEVEL_L1)
    write = broker.GrantRequest(provider="http", access_level=broker.ACCESS_LEVEL_L3, allowed_actions=["post"])
    for request in (pure, write):
        request.request_id = f"{run}-grant-{request.provider}"
        request.group = "developer"
        request.product_id = f"{run}-atlas"
        request.expires_at.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    return [pure, write]


def write_task(run: str) -> str:
    """The id of the task whose agent writes to the outside world."""
    return f"{run}-6"


def stories(run: str, announce_to: str) -> list[Story]:
    """The six tasks. announce_to: where the sixth one's agent writes to; empty: it is left out."""

    def task(number: int, **fields: object) -> pb.CreateTaskRequest:
        request = pb.CreateTaskRequest(
            request_id=f"{run}-task-{number}",
            id=f"{run}-{number}",
            product_id=f"{run}-atlas",
            assigned_group="developer",
        )
        request.MergeFrom(pb.CreateTaskRequest(**fields))  # type: ignore[arg-type]
        return request

    played = [
        Story(
            "through a Security gate, with a brokered call on the way",
            task(
                1,
                title="Count signup spend",
                task_type=pb.TASK_TYPE_FEATURE,
                priority=pb.PRIORITY_P1,
                gate=pb.GATE_SECURITY,
                description=_TOTALS,
            ),
            _STRAIGHT,
        ),
        Story(
            "through a Product gate",
            task(2, title="Write release notes", task_type=pb.TASK_TYPE_DOC, gate=pb.GATE_PRODUCT),
            _STRAIGHT,
        ),
        Story(
            "sent back for rework once",
            task(
                3,
                title="Harden login",
                task_type=pb.TASK_TYPE_SECURITY,
                gate=pb.GATE_SECURITY,
                description="Limit login attempts.\n\nreview: send back once: say how lockouts are lifted\n",
            ),
            _REWORKED,
            rework=1,
        ),
        Story(
            "blocked by its agent, unblocked by a person",
            task(
                4,
                title="Import invoices",
                task_type=pb.TASK_TYPE_REVOPS,
                gate=pb.GATE_REVOPS,
                description="Import last month.\n\ndo: block once: which ledger do the credits belong to?\n",
            ),
            _BLOCKED,
        ),
        Story(
            "for a killed product",
            task(5, title="Polish the relic", task_type=pb.TASK_TYPE_FEATURE, product_id=f"{run}-relic"),
            refusal="PRODUCT_KILLED",
        ),
        Story(
            "writes to the outside world, once, after two operators' votes",
            task(
                6,
                title="Announce the signup",
                task_type=pb.TASK_TYPE_OPS,
                gate=pb.GATE_NONE,
                description=_ANNOUNCE % announce_to,
            ),
            _STRAIGHT,
        ),
    ]
    return played if announce_to else played[:-1]
