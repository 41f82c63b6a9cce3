"""Lists: what is asked for, newest update last, page by page, and only what the caller may see."""

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanoclaw_core.principal import Caller, Role
from nanoclaw_governance import listing
from nanoclaw_governance.listing import Filter
from nanoclaw_governance.relation import is_visible
from nanoclaw_governance.task import Task

ADMIN = Caller("operator:founder", Role.ADMIN)


def pages(kernel, wanted: Filter, viewer: Caller = ADMIN, size: int = 3) -> list[Task]:
    """All pages, one after the other."""
    found: list[Task] = []
    after = ("", "")
    while True:
        page = kernel.database.read(lambda tx, after=after: listing.page(tx, wanted, viewer, after, size))
        found += page
        if len(page) < size:
            return found
        after = (page[-1].updated_at, page[-1].id)


async def fill(kernel, people) -> list[Task]:
    """Tasks of every sort."""
    await kernel.product("Shop", product_id="shop")
    made = []
    for number, (gate, group, product) in enumerate(
        itertools.product(("NONE", "SECURITY", "PRODUCT"), ("", "developer", "security"), ("", "shop"))
    ):
        task = await kernel.create(
            gate=gate,
            assigned_group=group,
            product_id=product,
            priority=f"P{number % 4}",
            human_gate=gate == "SECURITY" and number % 2 == 0,
        )
        if group:
            task = await kernel.walk(task, ("INBOX", "READY", "DOING", "REVIEW")[number % 4])
        made.append(kernel.get(task))
    return sorted(made, key=lambda task: (task.updated_at, task.id))


def matches(task: Task, wanted: Filter) -> bool:
    """The filters, read plainly."""
    return (
        (not wanted.states or task.state in wanted.states)
        and (not wanted.assigned_group or task.assigned_group == wanted.assigned_group)
        and (not wanted.product_id or task.product_id == wanted.product_id)
        and (not wanted.gate or task.gate == wanted.gate)
        and (not wanted.priority or task.priority == wanted.priority)
    )


VIEWERS = [ADMIN, *(Caller(f"group:{name}") for name in ("main", "developer", "security", "stranger"))]
FILTERS = st.builds(
    Filter,
    states=st.lists(st.sampled_from(["INBOX", "READY", "DOING", "REVIEW", "DONE"]), max_size=3).map(tuple),
    assigned_group=st.sampled_from(["", "", "developer", "security"]),
    product_id=st.sampled_from(["", "", "shop", "nowhere"]),
    gate=st.sampled_from(["", "", "NONE", "SECURITY", "PRODUCT"]),
    priority=st.sampled_from(["", "", "P0", "P2"]),
)


async def test_a_list_is_what_the_filters_say_and_the_viewer_may_see(kernel, people) -> None:
    """Every combination of filters, for every sort of viewer, in pages of any size: all of it, once, in order."""
    everything = await fill(kernel, people)

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(wanted=FILTERS, viewer=st.sampled_from(VIEWERS), size=st.integers(1, 20))
    def check(wanted: Filter, viewer: Caller, size: int) -> None:
        expected = [task for task in everything if matches(task, wanted) and is_visible(task, viewer)]
        assert pages(kernel, wanted, viewer, size) == expected

    check()


async def test_what_is_updated_meanwhile_comes_again_and_nothing_is_lost(kernel, people) -> None:
    """A task that changes between two pages moves to the end."""
    made = [await kernel.create() for _ in range(5)]
    first = kernel.database.read(lambda tx: listing.page(tx, Filter(), ADMIN, ("", ""), 2))
    await kernel.move(people.admin, made[0], "TRIAGED")
    after = (first[-1].updated_at, first[-1].id)
    rest = kernel.database.read(lambda tx: listing.page(tx, Filter(), ADMIN, after, 10))
    assert [task.id for task in rest] == [made[2].id, made[3].id, made[4].id, made[0].id]


PLANS: dict[str, tuple[Filter, Caller, str]] = {
    "everything": (Filter(), ADMIN, "gov_tasks_by_state"),
    "a state": (Filter(states=("READY",)), ADMIN, "gov_tasks_by_state"),
    "a group": (Filter(assigned_group="developer"), ADMIN, "gov_tasks_by_group"),
    "a group's state": (Filter(("READY", "DOING"), "developer"), ADMIN, "gov_tasks_by_group"),
    "a product": (Filter(product_id="shop"), ADMIN, "gov_tasks_by_product"),
    "a gate": (Filter(gate="SECURITY"), ADMIN, "gov_tasks_by_gate"),
    "one's own": (Filter(), Caller("group:developer"), "gov_tasks_by_group"),
}


@pytest.mark.parametrize("name", PLANS)
async def test_a_page_walks_an_index_in_its_order(kernel, people, name: str) -> None:
    """So that a page costs the same among a thousand tasks and a million: no scan, no sort."""
    wanted, viewer, index = PLANS[name]
    statements: list[str] = []
    kernel.database._reader.set_trace_callback(statements.append)
    pages(kernel, wanted, viewer)
    kernel.database._reader.set_trace_callback(None)
    (query,) = [statement for statement in statements if statement.startswith("SELECT")]
    plan = [row[3] for row in kernel.database._reader.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert any(index in line for line in plan), plan
    assert not [line for line in plan if "B-TREE" in line or line.startswith("SCAN gov")], plan


def test_what_is_read_on_the_loop_is_indexed() -> None:
    """The filters that need more than one index go to a thread."""
    quick = [plan[0] for plan in PLANS.values()]
    slow: list[Any] = [
        Filter(priority="P0"),
        Filter(gate="NONE"),
        Filter(("READY",), product_id="shop"),
        Filter(product_id="shop", gate="SECURITY"),
        Filter(("DOING",), gate="SECURITY"),
    ]
    assert all(wanted.is_indexed for wanted in quick)
    assert not any(wanted.is_indexed for wanted in slow)
