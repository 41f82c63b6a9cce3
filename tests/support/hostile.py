"""What hostile writers write: JSON of any shape, texts that are nearly JSON, and pieces of HTTP answers."""

import json
from typing import Any

from hypothesis import strategies as st

numbers = st.integers() | st.floats() | st.sampled_from([10**30, -(10**30), 2**63, -1, 0, 1e308])
texts = st.text(max_size=20) | st.sampled_from(["\ud800", "\x00", "..", "../x", "", " ", "a/b", "{}", "9" * 40])
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def dumped(value: Any) -> bytes:
    """As bytes, whatever is in it."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


nearly_json = (
    st.binary(max_size=200)
    | st.text('{}[]",:\\u0123456789aedDEnulltrufs \n', max_size=80).map(str.encode)
    | values.map(dumped)
)


@st.composite
def damaged(draw: st.DrawFn, raws: st.SearchStrategy[bytes]) -> bytes:
    """Something whole, with a piece cut out or put in."""
    raw = draw(raws)
    start = draw(st.integers(0, len(raw)))
    end = draw(st.integers(start, min(len(raw), start + 5)))
    return raw[:start] + draw(st.binary(max_size=4) | st.sampled_from([b'"', b"\\", b'"sig":', b",", b"{"])) + raw[end:]
