"""Pages and times at the edge."""

import base64

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.clock import to_text, utc_now
from nanoclaw_core.errors import NanoclawError
from nanoclaw_rpc import page, times

PARTS = st.lists(st.one_of(st.text(), st.integers()), min_size=1, max_size=4)


@given(PARTS)
def test_a_token_gives_its_keys_back(parts):
    """decode(encode(x)) == x, for the texts and numbers that rows are sorted by."""
    assert page.decode(page.encode(*parts)) == tuple(parts)


def test_no_token_is_the_first_page():
    """An empty token has no keys."""
    assert page.decode("") == ()


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "token",
    ["x", "====", "ä", "not base64!", encoded("{}"), encoded("[]"), encoded("[true]"), encoded("[1.5]"),
     encoded("[[1]]"), encoded("null"), encoded("[" * 100_000), encoded('["\\ud800"]')],
)  # fmt: skip
def test_a_token_of_somebody_else_is_refused(token):
    """Never an internal error, whatever is sent."""
    with pytest.raises(NanoclawError) as caught:
        page.decode(token)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize("parts", [("x",), (1, 2), (1, "x", 2), ("1", "x"), (-1, "x"), (1 << 63, "x")])
def test_a_token_of_another_list_is_refused(parts):
    """Other keys than the list sorts by, or numbers that no row has: neither the beginning nor an internal error."""
    with pytest.raises(NanoclawError) as caught:
        page.after(pb.ListTasksRequest(page_token=page.encode(*parts)), 0, "")
    assert caught.value.reason == "PAGE_TOKEN_INVALID"
    assert page.after(pb.ListTasksRequest(page_token=page.encode(7, "x")), 0, "") == (7, "x")
    assert page.after(pb.ListTasksRequest(), 0, "") == (0, "")


@given(sizes=st.lists(st.integers(0, 60), max_size=30), most=st.integers(1, 10))
def test_pages_hold_what_fits_and_lead_to_every_row_once(sizes, most):
    """At most so many rows, at most so many bytes, but one row at least, whatever its size."""
    rows = list(enumerate(sizes))
    seen, start = [], -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "MOST_BYTES", 100)
        while True:
            found = [row for row in rows if row[0] > start][: most + 1]
            messages, token = page.cut(
                found, most, lambda row: pb.Task(id=str(row[0]), title="x" * row[1]), lambda row: (row[0],)
            )
            assert len(messages) <= most
            assert len(messages) == 1 or sum(message.ByteSize() for message in messages) <= 100
            seen += [int(message.id) for message in messages]
            if not token:
                break
            (start,) = page.decode(token)
    assert seen == [number for number, _ in rows]


@given(st.text())
def test_any_text_is_a_token_or_refused(text):
    """Nothing else comes out."""
    reason = ""
    try:
        page.decode(text)
    except NanoclawError as error:
        reason = error.reason
    assert reason in {"", "PAGE_TOKEN_INVALID"}


@pytest.mark.parametrize(("asked", "given"), [(0, 50), (1, 1), (500, 500), (501, 500), (2**31 - 1, 500)])
def test_a_page_has_50_rows_unless_told_and_500_at_most(asked, given):
    """The proto's promise."""
    assert page.size(pb.ListTasksRequest(page_size=asked)) == given


def test_a_negative_page_is_refused():
    """It names the field."""
    with pytest.raises(NanoclawError, match="page_size"):
        page.size(pb.ListTasksRequest(page_size=-1))


@given(st.datetimes(timezones=st.just(utc_now().tzinfo)))
def test_a_time_survives_the_wire_to_the_microsecond(moment):
    """TEXT → Timestamp → TEXT, over all years that a datetime has."""
    text = to_text(moment)
    assert times.from_timestamp(times.to_timestamp(text)) == text


def test_the_text_form_means_what_it_says():
    """Against google's own reading."""
    assert times.to_timestamp("2026-11-21T07:00:00.000001Z").ToJsonString() == "2026-11-21T07:00:00.000001Z"
    assert times.to_optional("") is None
    assert times.to_optional(None) is None
    assert times.to_optional("1970-01-01T00:00:00.000000Z") == Timestamp()


@pytest.mark.parametrize(
    "timestamp", [Timestamp(seconds=2**62), Timestamp(seconds=-(2**62)), Timestamp(nanos=-1), Timestamp(nanos=10**9)]
)
def test_a_timestamp_that_is_no_time_is_the_caller_s_mistake(timestamp):
    """It names the field."""
    with pytest.raises(NanoclawError, match="expires_at"):
        times.from_timestamp(timestamp, "expires_at")
