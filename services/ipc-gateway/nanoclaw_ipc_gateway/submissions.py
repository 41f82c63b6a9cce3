"""Requests that are put in by hand, on the same path as a file: submitted by RPC, or from the quarantine again."""

from functools import partial
from typing import Any

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw_core.errors import Kind, NanoclawError, file_failed, invalid, not_found
from nanoclaw_core.principal import Caller
from nanoclaw_ipc_gateway import claims, mailboxes, records
from nanoclaw_ipc_gateway.answer import EXECUTED
from nanoclaw_ipc_gateway.concluding import kept_name
from nanoclaw_ipc_gateway.intake import Intake
from nanoclaw_ipc_gateway.lanes import Lanes
from nanoclaw_ipc_gateway.mailbox import Home, Origin
from nanoclaw_ipc_gateway.submitting import check_powers, digest, identity, reused
from nanoclaw_rpc import current_trace, mark_replayed, page, times
from nanoclaw_store import Database, Idempotency, Tx


class Submissions:
    """Submit, ListQuarantine and RetryQuarantined."""

    def __init__(self, home: Home, database: Database, intake: Intake, idempotency: Idempotency) -> None:
        self._home = home
        self._database = database
        self._intake = intake
        self._idempotency = idempotency
        self._lanes = Lanes()

    async def submit(self, caller: Caller, request: gateway.SubmitRequest) -> gateway.SubmitResponse:
        """Handles a request as if it had been a file."""
        claim_id = identity(caller.principal, request.request_id)
        check_powers(request.content)
        origin = self._addressed(request.group, request.attempt_id)
        trace_id = current_trace().trace_id
        async with self._lanes.turn([claim_id]):
            row = self._database.read(partial(records.find, record_id=claim_id))
            if row is not None:
                if (row["digest"], row["mailbox"]) != (digest(request), origin.number):
                    raise reused(request.request_id)
                if row["status"] == EXECUTED and row["answer"]:
                    mark_replayed()
                    return gateway.SubmitResponse(response_json=row["answer"])
            await self._database.write(
                lambda tx: records.note_submission(tx, caller.principal, origin, claim_id, request.request_id, trace_id)
            )
            text = await self._intake.take_in(
                origin.number, lambda: self._place(request.content, claim_id, origin.number)
            )
        return gateway.SubmitResponse(response_json=_told(text))

    def quarantined(self, request: gateway.ListQuarantineRequest) -> gateway.ListQuarantineResponse:
        """Files that could not be taken as requests, newest first."""
        most, (before,) = page.size(request), page.after(request, "")
        rows = self._database.read(partial(records.quarantine, group=request.group, before=before, most=most + 1))
        shown, token = page.cut(rows, most, _file, lambda row: (row["id"],))
        return gateway.ListQuarantineResponse(files=shown, next_page_token=token)

    async def retry(self, caller: Caller, request: gateway.RetryQuarantinedRequest) -> gateway.RetryQuarantinedResponse:
        """Takes a quarantined file in again, as what it is now, in the name of the mailbox that it came from.

        Raises QUARANTINED_NOT_FOUND, and PRECONDITION NOT_KEPT where only the row is left.
        """
        group, _, record_id = request.id.rpartition("-")
        trace_id = current_trace().trace_id
        async with self._lanes.turn([record_id]):
            recorded = await self._recorded(caller, request)
            if recorded is not None:
                return recorded
            row = self._database.read(partial(records.find, record_id=record_id))
            if row is None or row["group_name"] != group or row["state"] not in (records.QUARANTINED, records.RETRYING):
                raise not_found("quarantined", request.id, "id", "list them with ListQuarantine")
            if not row["digest"]:
                raise _not_kept(request.id)
            source, number = row["source"], row["mailbox"]
            base = claims.base_of(row["file_name"])
            if row["state"] == records.QUARANTINED:
                await self._database.write(
                    lambda tx: records.set_state(tx, caller.principal, row, records.RETRYING, trace_id)
                )
            try:
                text = await self._intake.take_in(number, lambda: self._take_back(request.id, number, source, base))
            except FileNotFoundError:
                raise _not_kept(request.id) from None
            response = gateway.RetryQuarantinedResponse(response_json=_told(text))
            await self._idempotency.run(caller.principal, request, lambda tx: response)
        return response

    def _place(self, content: bytes, claim_id: str, number: int) -> claims.Claim:
        try:
            return self._home.claims.place(content, claim_id, number)
        except OSError as error:
            raise file_failed(error) from error

    def _take_back(self, kept_id: str, number: int, source: str, base: str) -> claims.Claim:
        claim = claims.again(kept_id.rpartition("-")[2], number, source, base)
        self._home.claims.take_back(self._home.errors, f"{kept_id}.json", claim)
        return claim

    async def _recorded(
        self, caller: Caller, request: gateway.RetryQuarantinedRequest
    ) -> gateway.RetryQuarantinedResponse | None:
        try:
            return await self._idempotency.run(caller.principal, request, _unseen)
        except _UnseenError:
            return None

    def _addressed(self, group: str, attempt_id: str) -> Origin:
        def query(tx: Tx) -> Any:
            if attempt_id:
                return mailboxes.of_attempt(tx, attempt_id)
            return mailboxes.standing(tx, group)

        found = self._database.read(query)
        if isinstance(found, Origin):
            return found
        if group and found["group_name"] != group:
            raise invalid("group", f"attempt {attempt_id!r} is of group {found['group_name']!r}", "leave group out")
        if found["state"] != "OPEN":
            raise NanoclawError(
                Kind.PRECONDITION,
                "MAILBOX_CLOSED",
                f"the mailbox of attempt {attempt_id!r} is closed for good",
                next_step="submit it for the group instead: leave attempt_id out",
            )
        return mailboxes.origin(found)


class _UnseenError(Exception):
    """The request has no recorded answer."""


def _unseen(tx: Tx) -> gateway.RetryQuarantinedResponse:
    raise _UnseenError


def _told(text: str) -> str:
    if not text:
        raise NanoclawError(
            Kind.UNAVAILABLE, "NOT_FINISHED", "the request is not finished yet", next_step="send the same request again"
        )
    return text


def _not_kept(kept_id: str) -> NanoclawError:
    return NanoclawError(
        Kind.PRECONDITION, "NOT_KEPT", f"of {kept_id!r} only the record is kept", next_step="have it written again"
    )


def _file(row: Any) -> gateway.QuarantinedFile:
    return gateway.QuarantinedFile(
        id=kept_name(row["group_name"], row["id"]).removesuffix(".json"),
        group=row["group_name"],
        attempt_id=row["attempt_id"],
        file_name=row["file_name"],
        code=row["code"],
        message=row["message"],
        size_bytes=row["size_bytes"],
        created_at=times.to_timestamp(row["created_at"]),
    )
