"""Requests that were granted: the same request_id gets the same answer, with another body it is refused."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from typing import Any, TypeVar, cast

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pool import Default as default_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from sqlalchemy import Column, LargeBinary, MetaData, Table, Text, bindparam, insert, select

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.ids import check_request_id
from nanoclaw_store.database import Database
from nanoclaw_store.statements import Statement, UtcText, prepare
from nanoclaw_store.tx import Tx

R = TypeVar("R", bound=Message)

_PREFIX = "type.googleapis.com/"


def request_table(name: str, metadata: MetaData) -> Table:
    """Declares a slice's table of granted requests; requests_ddl(name) is its SQL."""
    return Table(
        name,
        metadata,
        Column("principal", Text, primary_key=True),
        Column("request_id", Text, primary_key=True),
        Column("rpc", Text, nullable=False),
        Column("body_digest", Text, nullable=False),
        Column("response", LargeBinary, nullable=False),
        Column("created_at", UtcText, nullable=False),
    )


def requests_ddl(name: str) -> str:
    """The SQL of such a table: put it into a migration as it stands."""
    return f"""\
CREATE TABLE {name} (
    principal TEXT NOT NULL,
    request_id TEXT NOT NULL,
    rpc TEXT NOT NULL,
    body_digest TEXT NOT NULL CHECK (length(body_digest) = 64),
    response BLOB NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (principal, request_id)
) STRICT, WITHOUT ROWID;
"""


class Idempotency:
    """Runs each granted request once. A refusal is not recorded: the same request is decided again."""

    def __init__(self, database: Database, table: Table) -> None:
        self._database = database
        self._find, self._record = _statements(table)

    async def run(self, principal: str, request: Message, unit: Callable[[Tx], R]) -> R:
        """Answers what the first such request got, or runs the unit and records its response, in one transaction.

        The request has a field request_id. Raises INVALID INVALID_FIELD for a request_id of another form, INVALID
        REQUEST_ID_REUSED where the principal used it with another body, and what the unit and Database.write raise.
        """
        request_id, digest = _identity(request)
        return await self._database.write(lambda tx: self._once(tx, principal, request, request_id, digest, unit))

    def _once(
        self, tx: Tx, principal: str, request: Message, request_id: str, digest: str, unit: Callable[[Tx], R]
    ) -> R:
        recorded = tx.one(self._find, who=principal, which=request_id)
        if recorded is not None:
            if recorded["body_digest"] != digest:
                raise NanoclawError(
                    Kind.INVALID,
                    "REQUEST_ID_REUSED",
                    f"request_id {request_id!r} was used for another request",
                    next_step="send a new unique request_id",
                    request_id=request_id,
                    first_used=recorded["created_at"],
                )
            return cast("R", _revive(recorded["response"]))
        response = unit(tx)
        tx.run(
            self._record,
            principal=principal,
            request_id=request_id,
            rpc=request.DESCRIPTOR.full_name.removesuffix("Request"),
            body_digest=digest,
            response=AnyMessage(
                type_url=_PREFIX + response.DESCRIPTOR.full_name, value=response.SerializeToString()
            ).SerializeToString(),
            created_at=tx.now,
        )
        return response


@cache
def _statements(table: Table) -> tuple[Statement, Statement]:
    columns = table.c
    find = select(columns.rpc, columns.body_digest, columns.response, columns.created_at)
    which = find.where(columns.principal == bindparam("who"), columns.request_id == bindparam("which"))
    return prepare(which), prepare(insert(table))


def _identity(request: Any) -> tuple[str, str]:
    """The request_id and the digest of type and body, the same for equal messages in every process."""
    request_id = check_request_id(request.request_id)
    name: str = request.DESCRIPTOR.full_name
    return request_id, sha256(name.encode() + b"\n" + request.SerializeToString(deterministic=True)).hexdigest()


def _revive(response: bytes) -> Message:
    recorded = AnyMessage.FromString(response)
    kind = default_pool().FindMessageTypeByName(recorded.type_url.removeprefix(_PREFIX))
    return GetMessageClass(kind).FromString(recorded.value)
