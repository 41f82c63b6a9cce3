"""Parameters are kept encrypted, for one call, and no longer than it takes to settle it."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.kept_params import Seal
from nanoclaw_core.errors import NanoclawError

L2 = pb.ACCESS_LEVEL_L2


def kept(path: Path) -> list[bytes]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return [ciphertext for (ciphertext,) in database.execute("SELECT ciphertext FROM ext_params")]


def test_what_was_sealed_opens_for_its_call_and_key_only() -> None:
    """Neither another call's row nor another key opens it, nor does one that somebody changed."""
    seal, raw = Seal(b"k" * 32), {"to": "ä", "n": 1.5}
    ciphertext = seal.close("call-1", raw)
    assert seal.open("call-1", ciphertext) == raw
    assert Seal(b"k" * 32).open("call-1", ciphertext) == raw
    for other, call_id, text in (
        (seal, "call-2", ciphertext),
        (Seal(b"x" * 32), "call-1", ciphertext),
        (seal, "call-1", ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])),
        (seal, "call-1", b""),
    ):
        with pytest.raises(NanoclawError, match="do not open") as refused:
            other.open(call_id, text)
        assert refused.value.reason == "KEPT_PARAMS_UNREADABLE"


async def test_a_call_under_way_keeps_its_parameters_unreadably_and_a_settled_one_does_not(
    broker: Any, counter: Any
) -> None:
    """A crash may need them to ask the provider; nobody else can read them."""
    await broker.grant("count", L2)
    while_it_ran: list[list[bytes]] = []
    answer = counter.add.then
    counter.add.then = lambda note: (while_it_ran.append(kept(broker.database)), answer(note))[1]
    await broker.call("count", "add", {"text": "the-text-sent"}, request_id="r")
    (ciphertexts,) = while_it_ran
    assert len(ciphertexts) == 1
    assert b"the-text-sent" not in ciphertexts[0]
    assert kept(broker.database) == []
