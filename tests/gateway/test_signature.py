"""The signature over a file's own text."""

import hmac
import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nanoclaw_ipc_gateway.signature import Signature, check, compact, members, signed_text
from nanoclaw_ipc_gateway.strict_json import read_object

SECRET = "0123456789abcdef" * 4

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
# `sig` inside of values on purpose: only the outermost one is the signature.
nested = values | st.fixed_dictionaries({"sig": values, "z": values})
requests = st.dictionaries(texts.filter(lambda name: name != "sig"), nested, max_size=5)
spaces = st.text(" \t\r\n", max_size=3)


@st.composite
def written(draw: st.DrawFn) -> tuple[bytes, str]:
    """A request as some writer might put it to disk, and the text that the writer signed."""
    members = list(draw(requests).items())
    ascii_only = draw(st.booleans())
    gap = draw(spaces)

    def dump(value: Any, **form: Any) -> str:
        return json.dumps(value, ensure_ascii=ascii_only, **form)

    signed = "{" + ",".join(f"{dump(name)}:{dump(value, separators=(',', ':'))}" for name, value in members) + "}"
    sig = hmac.new(SECRET.encode(), signed.encode(), "sha256").hexdigest()
    members.insert(draw(st.integers(0, len(members))), ("sig", sig))
    indent = draw(st.none() | st.integers(0, 4))
    name_of_sig = draw(st.sampled_from(['"sig"', '"\\u0073ig"']))
    parts = [
        f"{gap}{name_of_sig if name == 'sig' else dump(name)}{gap}:{gap}{dump(value, indent=indent)}{gap}"
        for name, value in members
    ]
    return (gap + "{" + ",".join(parts) + "}" + gap).encode(), signed


def test_a_file_of_an_existing_agent_is_validly_signed(wire: Path) -> None:
    """Its numbers (1e-7, 12345678901234567000) and escapes would not survive being serialised again."""
    raw = (wire / "ext_call.json").read_bytes()
    assert check(compact(raw), (wire / "ipc_secret").read_text()) is Signature.VALID


@given(written())
def test_what_was_signed_is_got_back_from_the_file(file: tuple[bytes, str]) -> None:
    """Whatever the order of members, the white space, the escapes, and wherever `sig` stands."""
    raw, signed = file
    read_object(raw)
    assert signed_text(compact(raw)) == signed
    assert check(compact(raw), SECRET) is Signature.VALID
    assert check(compact(raw), SECRET[::-1]) is Signature.WRONG


@given(requests, st.data())
def test_another_content_is_wrongly_signed(request: dict[str, Any], data: st.DataObject) -> None:
    """A signature holds for one text only."""
    other = data.draw(requests)
    text = json.dumps(request, separators=(",", ":"))
    sig = hmac.new(SECRET.encode(), text.encode(), "sha256").hexdigest()
    forged = json.dumps({**other, "sig": sig}, separators=(",", ":"))
    expected = Signature.VALID if json.dumps(other, separators=(",", ":")) == text else Signature.WRONG
    assert check(forged, SECRET) is expected


def test_a_signature_that_is_no_text_is_wrong_and_a_missing_one_missing() -> None:
    """Both are refused, under different names."""
    assert check('{"a":1}', SECRET) is Signature.MISSING
    for sig in ("null", "1", "[]", '{"sig":"x"}', '""', '"\\u00e9"'):
        assert check(f'{{"a":1,"sig":{sig}}}', SECRET) is Signature.WRONG


def test_only_the_outermost_sig_is_dropped() -> None:
    """A member of that name inside of parameters is signed like everything else."""
    assert signed_text('{"p":{"sig":1},"sig":"x"}') == '{"p":{"sig":1}}'
    assert signed_text('{"sig":"x","p":[{"sig":1}]}') == '{"p":[{"sig":1}]}'
    assert signed_text('{"a":1,"sig":"x","p":"sig"}') == '{"a":1,"p":"sig"}'
    assert signed_text('{"sig":"x"}') == "{}"
    assert signed_text('{"a":"\\",\\"sig\\":\\"x"}') == '{"a":"\\",\\"sig\\":\\"x"}'


def test_a_member_is_found_as_it_was_written() -> None:
    """So that parameters reach the broker in the agent's own digits."""
    text = compact(b'{ "params" : { "n" : 1.50, "m": 1e-7 } , "x": 1 }')
    member = members(text)["params"]
    assert text[member.value : member.end] == '{"n":1.50,"m":1e-7}'
