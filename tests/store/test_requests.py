"""Idempotency: the same request_id gets the same answer, with another body it is refused; refusals are not kept."""

import asyncio
import os
import sqlite3
import subprocess
import sys

import pytest
from sqlalchemy import insert, select

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_store import Idempotency, prepare


@pytest.fixture
def requests(database, pantry):
    return Idempotency(database, pantry.requests)


def _create(title="beans", request_id="r-1"):
    return pb.CreateTaskRequest(request_id=request_id, title=title)


def _unit(pantry, jar="a"):
    def unit(tx):
        head = pantry.new_jar(tx, jar)
        return pb.CreateTaskResponse(task=pb.Task(id=jar, version=head.seq))

    return unit


async def test_a_repeated_request_gets_the_recorded_answer(requests, pantry):
    """The unit runs once; the second caller can't tell the difference."""
    first = await requests.run("operator:ana", _create(), _unit(pantry))
    again = await requests.run("operator:ana", _create(), _unit(pantry, "never"))
    assert type(again) is pb.CreateTaskResponse
    assert again == first
    assert pantry.jars_on_disk() == ["a"]


async def test_simultaneous_repeats_run_once(requests, pantry):
    """Ten at once: one unit, ten equal answers."""
    answers = await asyncio.gather(*(requests.run("operator:ana", _create(), _unit(pantry)) for _ in range(10)))
    assert all(answer == answers[0] for answer in answers)
    assert pantry.jars_on_disk() == ["a"]


async def test_another_body_under_the_same_id_is_refused(requests, pantry):
    """Neither run nor answered with somebody else's answer."""
    await requests.run("operator:ana", _create(), _unit(pantry))
    with pytest.raises(NanoclawError) as caught:
        await requests.run("operator:ana", _create("lentils"), _unit(pantry, "b"))
    assert (caught.value.kind, caught.value.reason) == (Kind.INVALID, "REQUEST_ID_REUSED")
    assert caught.value.next_step
    assert pantry.jars_on_disk() == ["a"]


async def test_another_request_with_the_same_bytes_is_another_body(requests, pantry):
    """The type belongs to the digest: two empty messages of different RPCs are not the same request."""
    await requests.run("operator:ana", pb.CreateTaskRequest(request_id="r-1"), _unit(pantry))
    other = pb.CreateProductRequest(request_id="r-1")
    with pytest.raises(NanoclawError, match="REQUEST_ID_REUSED"):
        await requests.run("operator:ana", other, _unit(pantry, "b"))


async def test_each_principal_has_ids_of_its_own(requests, pantry):
    """Nobody can read or block another's answer by guessing its id."""
    await requests.run("operator:ana", _create(), _unit(pantry))
    await requests.run("group:cook", _create("lentils"), _unit(pantry, "b"))
    assert pantry.jars_on_disk() == ["a", "b"]


async def test_a_refusal_is_decided_again(requests, pantry):
    """Only successes are recorded: what was refused may pass later, under the same id."""

    def refuse(tx):
        pantry.new_jar(tx, "never")
        raise NanoclawError(Kind.PRECONDITION, "NOT_YET", "not yet")

    with pytest.raises(NanoclawError, match="NOT_YET"):
        await requests.run("operator:ana", _create(), refuse)
    answer = await requests.run("operator:ana", _create(), _unit(pantry))
    assert answer.task.id == "a"
    assert pantry.jars_on_disk() == ["a"]


async def test_the_record_and_the_change_are_one_transaction(database, pantry, requests):
    """Where the record can't be written, the change goes with it: else the same request would change it again."""
    first = _unit(pantry)

    def unit(tx):
        answer = first(tx)
        tx.run(
            prepare(insert(pantry.requests)), principal="operator:ana", request_id=_create().request_id, rpc="other",
            body_digest="0" * 64, response=b"", created_at=tx.now,
        )  # fmt: skip
        return answer

    with pytest.raises(sqlite3.IntegrityError):
        await requests.run("operator:ana", _create(), unit)
    assert pantry.jars_on_disk() == []
    assert database.read(lambda tx: tx.all(prepare(select(pantry.requests)))) == []
    assert (await requests.run("operator:ana", _create(), _unit(pantry))).task.id == "a"


@pytest.mark.parametrize("request_id", ["", " ", "a b", "x" * 201, "ä"])
async def test_a_request_needs_an_id_of_the_right_form(requests, pantry, request_id):
    """Without one nothing would be idempotent."""
    with pytest.raises(NanoclawError, match="INVALID_FIELD"):
        await requests.run("operator:ana", _create(request_id=request_id), _unit(pantry))
    assert pantry.jars_on_disk() == []


async def test_the_answer_survives_a_restart(open_database, pantry):
    """The record is on the disk, with its type."""
    database = await open_database()
    first = await Idempotency(database, pantry.requests).run("operator:ana", _create(), _unit(pantry))
    await database.close()
    again = Idempotency(await open_database(), pantry.requests)
    assert await again.run("operator:ana", _create(), _unit(pantry, "never")) == first


_DIGEST = """
from types import SimpleNamespace
from google.protobuf.struct_pb2 import Struct
from nanoclaw_store.requests import _identity
body = Struct()
for number in sorted(range(50), key=lambda number: hash(str(number))):
    body[f"key{number}"] = number
request = SimpleNamespace(
    request_id="r-1", DESCRIPTOR=body.DESCRIPTOR, SerializeToString=lambda **how: body.SerializeToString(**how)
)
print(_identity(request)[1])
"""


def test_the_digest_is_the_same_in_every_process():
    """A repeat after a restart is the same request: maps are written in a fixed order, whatever the hash seed."""
    digests = set()
    for seed in "123":
        environ = os.environ | {"PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", _DIGEST], env=environ, capture_output=True, text=True, check=True)
        digests.add(run.stdout)
    assert len(digests) == 1
