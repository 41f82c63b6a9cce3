"""Who starts next: slots, P0 first, fair between groups, work in progress, backoff; whatever is waiting."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nanoclaw_dispatcher.schedule import Load, Waiting, WipLimit, choose, held, next_due, over

NOW = "2026-11-21T12:00:00.000000Z"
LATER = "2026-11-21T12:00:01.000000Z"
IDLE = Load(slots=100, running={}, doing={}, turns={}, wip={})
GROUPS = ("developer", "writer", "security")


def waiting(key: str, group: str = "developer", priority: int = 2, since: str = NOW, **more: object) -> Waiting:
    return Waiting(key, group, priority, since, **more)  # type: ignore[arg-type]


def keys(chosen: list[Waiting]) -> list[str]:
    return [each.key for each in chosen]


_counts = st.dictionaries(st.sampled_from(GROUPS), st.integers(0, 5))
loads = st.builds(
    Load,
    slots=st.integers(-1, 6),
    running=_counts,
    doing=_counts,
    turns=_counts,
    wip=st.dictionaries(st.sampled_from(GROUPS), st.builds(WipLimit, st.integers(0, 4), st.booleans())),
)
queues = st.lists(
    st.builds(
        Waiting,
        key=st.uuids().map(str),
        group=st.sampled_from(GROUPS),
        priority=st.integers(0, 3),
        since=st.sampled_from((NOW, LATER)),
        not_before=st.sampled_from(("", NOW, LATER)),
        begins=st.booleans(),
    ),
    max_size=10,
    unique_by=lambda each: each.key,
)


@given(queues, loads)
def test_each_choice_is_the_one_that_the_rules_name(queue: list[Waiting], load: Load) -> None:
    """Replayed one by one: nobody who is paused or held, the most urgent first, then the group with the fewest alive,
    then the one that waited longest for its turn; and no slot stays empty while somebody may have it."""
    chosen = choose(queue, load, NOW)
    assert len(set(keys(chosen))) == len(chosen) <= max(load.slots, 0)
    running, doing = Counter(load.running), Counter(load.doing)
    turns = dict(load.turns)
    left = list(queue)

    def free(each: Waiting) -> bool:
        limit = load.wip.get(each.group, WipLimit())
        return each.not_before <= NOW and not (each.begins and limit.hard and doing[each.group] >= limit.limit)

    for number, each in enumerate(chosen, 1):
        assert free(each)
        for other in filter(free, left):
            assert each.priority <= other.priority
            if other.priority == each.priority:
                mine = (running[each.group], turns.get(each.group, 0), each.since)
                assert mine <= (running[other.group], turns.get(other.group, 0), other.since)
        left.remove(each)
        running[each.group] += 1
        doing[each.group] += each.begins
        turns[each.group] = 1000 + number
    if len(chosen) < load.slots:
        assert not any(map(free, left))


@given(queues, loads, st.randoms())
def test_the_order_in_which_they_are_named_does_not_matter(
    queue: list[Waiting], load: Load, chance: "st.DrawFn"
) -> None:
    """Two dispatchers that know the same choose the same."""
    shuffled = list(queue)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(shuffled, load, NOW) == choose(queue, load, NOW)


def test_no_more_than_there_are_slots() -> None:
    """None at all where too many run already, as after the limit was lowered."""
    queue = [waiting(f"k{number}") for number in range(5)]
    for slots, started in ((-2, 0), (0, 0), (1, 1), (3, 3), (9, 5)):
        assert len(choose(queue, replace(IDLE, slots=slots), NOW)) == started


def test_p0_goes_before_all_others() -> None:
    """Even of the group that has the most running and had the last turn."""
    load = replace(IDLE, running={"developer": 5}, turns={"developer": 9})
    queue = [waiting("late", "writer", 1), waiting("urgent", "developer", 0, LATER), waiting("low", "writer", 3)]
    assert keys(choose(queue, load, NOW)) == ["urgent", "late", "low"]


def test_a_group_that_floods_the_queue_does_not_starve_another() -> None:
    """With one slot they take turns, though all of the one's came first."""
    flood = [waiting(f"f{number}", "developer") for number in range(20)]
    queue = [*flood, *(waiting(f"w{number}", "writer", since=LATER) for number in range(3))]
    turns: dict[str, int] = {}
    order = []
    for turn in range(1, 8):
        (each,) = choose(queue, replace(IDLE, slots=1, turns=turns), NOW)
        order.append(each.group)
        turns[each.group] = turn
        queue.remove(each)
    assert order == ["developer", "writer", "developer", "writer", "developer", "writer", "developer"]


def test_free_slots_go_to_who_has_the_fewest_alive() -> None:
    """Whoever's turn it was."""
    load = replace(IDLE, slots=2, running={"developer": 2, "writer": 1}, turns={"writer": 9, "developer": 1})
    queue = [waiting("d", "developer"), waiting("w", "writer"), waiting("s", "security", since=LATER)]
    assert keys(choose(queue, load, NOW)) == ["s", "w"]
    load = replace(IDLE, slots=3, running={"writer": 1})
    queue = [*(waiting(f"d{number}", "developer") for number in range(3)), waiting("w", "writer")]
    assert keys(choose(queue, load, NOW)) == ["d0", "w", "d1"], "who was chosen just now is alive, too"


def test_within_a_group_who_waits_longest_is_next() -> None:
    """And of those that came at once, always the same."""
    queue = [waiting("c", since=LATER), waiting("b"), waiting("a")]
    assert keys(choose(queue, IDLE, NOW)) == ["a", "b", "c"]


def test_a_pause_is_waited_out_and_its_end_is_known() -> None:
    """To the microsecond; what has no pause has no part in it."""
    queue = [waiting("ready"), waiting("due", not_before=NOW), waiting("paused", not_before=LATER)]
    assert keys(choose(queue, IDLE, NOW)) == ["due", "ready"]
    assert next_due(queue, NOW) == LATER
    assert next_due(queue, LATER) == ""
    assert next_due([], NOW) == ""
    even_later = waiting("later", not_before="2026-11-21T13:00:00.000000Z")
    assert next_due([even_later, *queue], NOW) == LATER


def test_a_hard_limit_holds_what_begins_and_nothing_that_goes_on() -> None:
    """Reviews and rework free a group; what begins counts from the moment that it is chosen."""
    wip: Mapping[str, WipLimit] = {"developer": WipLimit(2, hard=True)}
    queue = [waiting(key, since=f"{NOW}{key}") for key in "abc"] + [waiting("r", begins=False, since=f"{NOW}z")]
    for doing, started in ((0, "abr"), (1, "ar"), (2, "r"), (3, "r")):
        assert "".join(keys(choose(queue, replace(IDLE, doing={"developer": doing}, wip=wip), NOW))) == started
    assert keys(choose([waiting("w", "writer")], replace(IDLE, doing={"writer": 9}, wip=wip), NOW)) == ["w"]
    review_first = [waiting("r", since="", begins=False), waiting("a")]
    assert keys(choose(review_first, replace(IDLE, doing={"developer": 1}, wip=wip), NOW)) == ["r", "a"]


def test_a_soft_limit_only_warns() -> None:
    """Three unless told otherwise: at it all is well, past it is worth a word."""
    for doing in range(6):
        assert not held("developer", {"developer": doing}, {})
        assert over("developer", {"developer": doing}, {}) == (doing > 3)
        assert over("developer", {"developer": doing}, {"developer": WipLimit(1)}) == (doing > 1)
        assert held("developer", {"developer": doing}, {"developer": WipLimit(1, hard=True)}) == (doing >= 1)
    assert len(choose([waiting("a")], replace(IDLE, doing={"developer": 9}), NOW)) == 1
