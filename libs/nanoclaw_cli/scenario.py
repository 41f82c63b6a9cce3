"""What the demo asks of the system: two products, a grant, and five tasks that between them take every path."""

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


def products(run: str) -> tuple[pb.CreateProductRequest, pb.CreateProductRequest]:
    """The product that the work is for, and one that gets killed."""
    return (
        pb.CreateProductRequest(request_id=f"{run}-product", id=f"{run}-atlas", name=f"Atlas {run}"),
        pb.CreateProductRequest(request_id=f"{run}-killed", id=f"{run}-relic", name=f"Relic {run}"),
    )


def grant(run: str) -> broker.GrantRequest:
    """Lets the developer group use the broker's pure transformations for the product, for a day."""
    request = broker.GrantRequest(
        request_id=f"{run}-grant",
        group="developer",
        provider="json",
        access_level=broker.ACCESS_LEVEL_L1,
        product_id=f"{run}-atlas",
    )
    request.expires_at.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    return request


def stories(run: str) -> list[Story]:
    """The five tasks."""

    def task(number: int, **fields: object) -> pb.CreateTaskRequest:
        request = pb.CreateTaskRequest(
            request_id=f"{run}-task-{number}",
            id=f"{run}-{number}",
            product_id=f"{run}-atlas",
            assigned_group="developer",
        )
        request.MergeFrom(pb.CreateTaskRequest(**fields))  # type: ignore[arg-type]
        return request

    return [
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
    ]
