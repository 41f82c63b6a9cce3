"""What an agent writes into its mailbox, as bytes: read, refused, or wrongly signed; nothing else can come of it."""

import contextlib
import json
from typing import Any

from hostile import damaged, dumped, nearly_json, texts, values
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw_core.errors import NanoclawError
from nanoclaw_ipc_gateway.request import MESSAGES, TASKS, named, parse
from nanoclaw_ipc_gateway.signature import Signature, check, compact, members, sign, signed_text
from nanoclaw_ipc_gateway.strict_json import read_object

SECRET = "ab" * 32
requests = st.fixed_dictionaries(
    {"type": st.sampled_from(sorted(TASKS))},
    optional=dict.fromkeys(("request_id", "provider", "action", "params", "taskId", "sig", "title"), values),
)
files = nearly_json | damaged(requests.map(dumped)) | damaged(values.map(lambda value: dumped({"sig": value})))


@given(files)
def test_any_file_is_a_request_or_refused(raw: bytes) -> None:
    """By the strict reader, the signature's own and the types of requests, in the order in which they are asked."""
    try:
        value = read_object(raw)
    except NanoclawError:
        return
    text = compact(raw)
    assert set(members(text)) == set(value)
    assert json.loads(text) == json.loads(raw)
    assert check(text, SECRET) in (Signature.WRONG, Signature.MISSING)
    assert isinstance(named(value), str)
    for types in (TASKS, MESSAGES):
        with contextlib.suppress(NanoclawError):
            parse(value, types)


@given(st.dictionaries(texts, values, max_size=4), st.data())
def test_a_signed_file_that_is_changed_is_not_signed(request: dict[str, Any], data: st.DataObject) -> None:
    """Whatever a thief of files changes in one: it is the same request as before, or it is not signed."""
    request.pop("sig", None)
    plain = json.dumps(request, separators=(",", ":"))
    signed = json.dumps({**request, "sig": sign(plain, SECRET)}).encode()
    changed = data.draw(damaged(st.just(signed)))
    try:
        value = read_object(changed)
    except NanoclawError:
        return
    text = compact(changed)
    if check(text, SECRET) is Signature.VALID:
        assert signed_text(text) == plain
        assert dumped({**value, "sig": ""}) == dumped({**json.loads(plain), "sig": ""})
