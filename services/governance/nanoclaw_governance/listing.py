"""Lists of tasks, newest update last: each query walks indexes in that order, so a page costs the same at any size."""

from collections.abc import Iterator
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import bindparam, func, literal_column, select, tuple_, union_all

from nanoclaw_core.principal import Caller
from nanoclaw_governance.relation import own_gates
from nanoclaw_governance.tables import PRODUCTS, TASKS
from nanoclaw_governance.task import State, Task
from nanoclaw_governance.tasks import BOUND, PRODUCT_NAME, WHOLE, joined
from nanoclaw_store import Statement, Tx, prepare

_STATES: tuple[str, ...] = tuple(state.value for state in State)
_COLUMNS = TASKS.c

_GLIMPSE = (_COLUMNS.updated_at, _COLUMNS.id, _COLUMNS.version, PRODUCT_NAME, BOUND)
_AFTER: Any = tuple_(bindparam("after_time"), bindparam("after_id"))
_COUNTS = prepare(select(_COLUMNS.state, func.count()).group_by(_COLUMNS.state))


_order = attrgetter("updated_at", "id")


class Filter(NamedTuple):
    """What a list is restricted to; all that is given must hold. Empty: anything."""

    states: tuple[str, ...] = ()
    assigned_group: str = ""
    product_id: str = ""
    gate: str = ""
    priority: str = ""

    @property
    def is_indexed(self) -> bool:
        """Whether a page reads little more than its own rows: states with or without a group are ranges of an index."""
        rest = (self.product_id, self.gate if self.gate != "NONE" else "", self.states or self.assigned_group)
        return not self.priority and self.gate != "NONE" and sum(map(bool, rest)) <= 1


class Glimpse(NamedTuple):
    """A task's place in a list, and all that its message changes with: one version has one row."""

    updated_at: str
    id: str
    version: int
    product_name: str
    attempts: str


def page(tx: Tx, wanted: Filter, viewer: Caller, after: tuple[str, str], most: int) -> list[Task]:
    """Tasks updated after (updated_at, id), of those that the viewer may see."""
    tasks = [Task(*row) for row in _rows(tx, False, wanted, viewer, after, most)]
    tasks.sort(key=_order)  # they come in this order, but SQL does not promise it, and its own sort costs more
    return tasks


def glimpses(tx: Tx, wanted: Filter, viewer: Caller, after: tuple[str, str], most: int) -> list[Glimpse]:
    """The same tasks, in a quarter of the time."""
    return sorted(Glimpse(*row) for row in _rows(tx, True, wanted, viewer, after, most))


def _rows(tx: Tx, short: bool, wanted: Filter, viewer: Caller, after: tuple[str, str], most: int) -> list[Any]:
    group = viewer.group if viewer.group != "main" else ""
    shape = wanted._replace(
        states=tuple(sorted(set(wanted.states))),
        assigned_group="given" if wanted.assigned_group else "",
        product_id="given" if wanted.product_id else "",
    )
    params: dict[str, Any] = {"after_time": after[0], "after_id": after[1], "most": most}
    if wanted.assigned_group:
        params["wanted_group"] = wanted.assigned_group
    if wanted.product_id:
        params["wanted_product"] = wanted.product_id
    if group:
        params["viewer"] = group
    return tx.all(_statement(short, shape, bool(group), own_gates(group)), **params)


def counts(tx: Tx) -> dict[str, int]:
    """How many tasks are in each state; reads a whole index."""
    return {row[0]: row[1] for row in tx.all(_COUNTS)}


@lru_cache(maxsize=512)
def _statement(short: bool, shape: Filter, as_group: bool, gates: tuple[str, ...]) -> Statement:
    """The query for filters of this shape. It merges branches that each walk one index in the order of the list."""
    selects = [
        select(_COLUMNS.id, _COLUMNS.updated_at).where(*branch, tuple_(_COLUMNS.updated_at, _COLUMNS.id) > _AFTER)
        for branch in _branches(shape, as_group, gates)
    ]
    merged = (union_all(*selects) if len(selects) > 1 else selects[0]).order_by(
        literal_column("updated_at"), literal_column("id")
    )
    found = merged.limit(bindparam("most")).subquery("found")
    tasks = found.join(TASKS, TASKS.c.id == found.c.id)
    if short:
        names = tasks.outerjoin(PRODUCTS, PRODUCTS.c.id == TASKS.c.product_id)
        return prepare(select(*_GLIMPSE).select_from(names))
    return prepare(select(*WHOLE).select_from(joined(tasks)))


def _branches(shape: Filter, as_group: bool, gates: tuple[str, ...]) -> Iterator[list[Any]]:
    """The conditions of each branch: first those of its index, then the rest of the filters."""
    rest = _rest(shape)
    states = shape.states or _STATES
    if as_group:
        mine = _of_group("viewer")
        yield from ([*mine, _COLUMNS.state == state, *rest.without("states")] for state in states)
        foreign = (_COLUMNS.human_gate == 0, _COLUMNS.assigned_group != bindparam("viewer"))
        yield from ([*_at_gate(gate), *foreign, *rest.values()] for gate in gates)
    elif shape.assigned_group:
        mine = _of_group("wanted_group")
        yield from ([*mine, _COLUMNS.state == state, *rest.without("states", "assigned_group")] for state in states)
    elif shape.product_id:
        yield list(rest.values())
    elif shape.gate and shape.gate != "NONE":
        yield [*_at_gate(shape.gate), *rest.without("gate")]
    else:
        yield from ([_COLUMNS.state == state, *rest.without("states")] for state in states)


def _of_group(parameter: str) -> tuple[Any, ...]:
    return (_COLUMNS.assigned_group == bindparam(parameter), _COLUMNS.assigned_group != "")


def _at_gate(gate: str) -> tuple[Any, ...]:
    return (_COLUMNS.gate == gate, _COLUMNS.gate != "NONE")


class _Rest(dict[str, Any]):
    def without(self, *names: str) -> list[Any]:
        return [condition for name, condition in self.items() if name not in names]


def _rest(shape: Filter) -> _Rest:
    rest = _Rest()
    if shape.states:
        rest["states"] = _COLUMNS.state.in_(shape.states)
    if shape.assigned_group:
        rest["assigned_group"] = _COLUMNS.assigned_group == bindparam("wanted_group")
    if shape.product_id:
        # The second term is the index's own: it lets SQLite use it.
        rest["product_id"] = (_COLUMNS.product_id == bindparam("wanted_product")) & (_COLUMNS.product_id != "")
    if shape.gate:
        rest["gate"] = _COLUMNS.gate == shape.gate
    if shape.priority:
        rest["priority"] = _COLUMNS.priority == shape.priority
    return rest
