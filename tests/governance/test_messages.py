"""Messages kept for lists: a list never shows what is not in the database any more."""

from typing import Any

import pytest

from nanoclaw_core.principal import Caller
from nanoclaw_governance import listing, messages
from nanoclaw_governance.listing import Filter
from nanoclaw_governance.messages import TaskMessages
from nanoclaw_governance.wire import task_message


def both(kernel: Any, kept: TaskMessages, viewer: Caller, most: int = 50) -> tuple[list[Any], list[Any]]:
    """The page from what is kept, and the page as it is."""
    got, _ = kernel.database.read(lambda tx: kept.page(tx, Filter(), viewer, ("", ""), most))
    real = kernel.database.read(lambda tx: listing.page(tx, Filter(), viewer, ("", ""), most))
    return got, [task_message(task) for task in real]


@pytest.mark.parametrize("number", [3, 15])
async def test_every_change_shows_at_once(kernel, people, number: int) -> None:
    """Whatever a message is built from: the row, the product's name, the attempts; few tasks or many."""
    kept = TaskMessages()
    await kernel.product("Shop")
    tasks = [await kernel.create(product="Shop", gate="SECURITY", assigned_group="developer") for _ in range(number)]
    changes = [
        lambda task: kernel.move(people.admin, task, "TRIAGED"),
        lambda task: kernel.update(people.admin, task, title="New"),
        lambda task: kernel.bind(task, "developer", "nc-1", 1),
        lambda task: kernel.bind(task, "developer", "nc-2", 2),
        lambda _: kernel.change_product(people.admin, "Shop", name="Store"),
        lambda task: kernel.override(people.admin, task),
        lambda task: kernel.add_evidence(people.developer, task),
    ]
    for change in changes:
        got, real = both(kernel, kept, people.admin)
        assert got == real
        await change(tasks[1])
        got, real = both(kernel, kept, people.admin)
        assert got == real
    again, _ = both(kernel, kept, people.admin)
    assert all(one is other for one, other in zip(again, got, strict=True)), "they are kept, though"


async def test_it_keeps_so_many_and_nothing_huge(kernel, people, monkeypatch) -> None:
    """Memory has a bound, however many tasks are listed."""
    monkeypatch.setattr(messages, "MOST", 5)
    kept = TaskMessages()
    for number in range(20):
        await kernel.create(description="x" * 5000 if number == 19 else "")
    for most in (3, 50, 4):
        got, real = both(kernel, kept, people.admin, most)
        assert got == real
        assert len(kept._kept) <= 5
    assert not [message for _, message in kept._kept.values() if message.description]
