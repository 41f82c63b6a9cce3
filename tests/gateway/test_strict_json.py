"""JSON that an agent may have written to do harm."""

import contextlib
import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw_core.errors import NanoclawError
from nanoclaw_ipc_gateway.strict_json import MAX_BYTES, MAX_DEPTH, read_object

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


def code(raw: bytes) -> str:
    """What it is refused with."""
    with pytest.raises(NanoclawError) as refusal:
        read_object(raw)
    return refusal.value.reason


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "BAD_JSON"),
        (b"   ", "BAD_JSON"),
        (b'{"a":1', "BAD_JSON"),
        (b'{"a":1}{"b":2}', "BAD_JSON"),
        (b"{'a':1}", "BAD_JSON"),
        (b'{"a":1,}', "BAD_JSON"),
        (b'{"a":"\x01"}', "BAD_JSON"),
        (b'{"a":01}', "BAD_JSON"),
        (b'\xef\xbb\xbf{"a":1}', "BAD_JSON"),
        (b'{"a":"\xff"}', "NOT_UTF8"),
        (b'{"a":"\xed\xa0\x80"}', "NOT_UTF8"),
        (b'{"a":"\xc3', "NOT_UTF8"),
        (b"[]", "NOT_AN_OBJECT"),
        (b'"x"', "NOT_AN_OBJECT"),
        (b"null", "NOT_AN_OBJECT"),
        (b"1", "NOT_AN_OBJECT"),
        (b'{"a":1,"a":1}', "DUPLICATE_MEMBER"),
        (b'{"a":1,"\\u0061":2}', "DUPLICATE_MEMBER"),
        (b'{"p":{"x":[{"b":1,"b":2}]}}', "DUPLICATE_MEMBER"),
        (b'{"sig":"x","sig":"y"}', "DUPLICATE_MEMBER"),
        (b'{"a":NaN}', "BAD_NUMBER"),
        (b'{"a":-Infinity}', "BAD_NUMBER"),
        (b'{"a":1e999}', "BAD_NUMBER"),
        (b'{"a":' + b"9" * 5000 + b"}", "BAD_NUMBER"),
        (b'{"a":"\\ud800"}', "UNPAIRED_SURROGATE"),
        (b'{"a":"\\udc00\\ud800"}', "UNPAIRED_SURROGATE"),
        (b'{"\\uD9ab":1}', "UNPAIRED_SURROGATE"),
        (b'{"a":"' + b"x" * MAX_BYTES + b'"}', "TOO_LARGE"),
        (b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "TOO_DEEP"),
        (b'{"a":' * 100_000, "TOO_DEEP"),
        (b"[" * 500_000 + b"]" * 500_000, "TOO_DEEP"),
    ],
)
def test_what_is_no_plain_json_object_is_refused_by_name(raw: bytes, reason: str) -> None:
    """Two readers that disagree on a text are an attack; so there is one reading or none."""
    assert code(raw) == reason


def test_what_is_allowed_is_read() -> None:
    """The limits themselves pass."""
    deep = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert "a" in read_object(deep)
    assert read_object(b'{"a":"\\ud83d\\ude00","b":"{[","c":"\\\\ud800","d":"\\u0000"}') == {
        "a": "😀",
        "b": "{[",
        "c": "\\ud800",
        "d": "\x00",
    }
    full = b'{"a":"' + b"x" * (MAX_BYTES - 8) + b'"}'
    assert len(full) == MAX_BYTES
    assert read_object(full)
    many = b'{"a":[' + b",".join([b"[]"] * 1000) + b"]}"
    assert len(read_object(many)["a"]) == 1000


@given(st.dictionaries(st.text(), values, max_size=5), st.sampled_from([None, 1, 2]), st.booleans())
def test_every_object_that_json_can_write_is_read_as_it_is(
    value: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    """Strict is not narrow: only what is ambiguous is refused."""
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        expected = value if json.dumps(value, ensure_ascii=False).encode() else None
    except UnicodeEncodeError:
        expected = None
    if expected is None:
        assert code(raw) in ("UNPAIRED_SURROGATE", "NOT_UTF8")
    else:
        assert read_object(raw) == expected


@given(st.binary(max_size=200) | st.text('{}[]",:\\u0123456789aedDEnulltrufs \n', max_size=60).map(str.encode))
def test_no_bytes_get_more_than_a_refusal(raw: bytes) -> None:
    """Whatever comes, it is an object or a NanoclawError."""
    with contextlib.suppress(NanoclawError):
        assert isinstance(read_object(raw), dict)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":"' + b'\\"' * 500_000,
        b'"' * 1_000_000,
        b'{"a":[' + b"[]," * 340_000,
        b"\\" * 1_000_000,
        b'{"a":["' + b'\\","' * 250_000,
        b'{"' + b'a","' * 250_000,
    ],
    ids=["escapes", "quotes", "brackets", "backslashes", "escaped quotes", "names"],
)
def test_a_megabyte_of_malice_takes_time_in_proportion(raw: bytes) -> None:
    """No pattern goes back over what it has read; a quadratic one would take hours."""
    began = time.process_time()  # what others do on the machine does not count
    assert code(raw)
    assert time.process_time() - began < 10


def test_a_finite_number_stays_finite() -> None:
    """The largest float passes."""
    assert math.isfinite(read_object(b'{"a":1.7976931348623157e308}')["a"])
