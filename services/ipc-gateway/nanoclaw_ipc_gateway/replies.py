"""Replies find their mailbox: written aside first, so that after a crash each one arrives, and arrives once."""

import json
import os
import re
from functools import partial

import structlog

from nanoclaw_core.errors import NanoclawError, file_failed
from nanoclaw_core.ids import new_ulid
from nanoclaw_ipc_gateway import folders, mailboxes, messages
from nanoclaw_ipc_gateway.intake import Intake
from nanoclaw_ipc_gateway.mailbox import Home, Origin
from nanoclaw_ipc_gateway.messages import NewMessage
from nanoclaw_store import Database, Tx

log = structlog.get_logger()

_STAGED = re.compile(r"([0-9A-Z]{26})-(\d{1,18})\.json")


class Replies:
    """Input files on their way: staged in ipc/.outgoing, then the row, then renamed into the mailbox.

    A staged file without a row was never promised; one with a row still has to arrive; a row without a staged file has
    arrived. An agent that has read and removed its input is not told the same again.
    """

    def __init__(self, home: Home, database: Database, intake: Intake) -> None:
        self._home = home
        self._database = database
        self._intake = intake

    def addressee(self, group: str, attempt_id: str) -> Origin:
        """The mailbox that reaches a sender: its attempt's while that is open, else its group's standing one.

        Raises MAILBOX_NOT_FOUND.
        """

        def query(tx: Tx) -> Origin:
            if attempt_id:
                row = mailboxes.of_attempt(tx, attempt_id)
                if row["state"] == "OPEN":
                    return mailboxes.origin(row)
            return mailboxes.standing(tx, group)

        return self._database.read(query)

    def stage(self, to: Origin, text: str, in_reply_to: str, replied_by: str) -> NewMessage:
        """Writes a reply aside. Raises FILE_FAILED."""
        message = NewMessage(new_ulid(), to, text, replied_by=replied_by, in_reply_to=in_reply_to)
        content = {"type": "message", "id": message.id, "text": text, "from": replied_by}
        if in_reply_to:
            content["in_reply_to"] = in_reply_to
        raw = json.dumps(content, ensure_ascii=False).encode()
        try:
            folders.put(self._home.outgoing, _staged(message), raw, 0o640, self._home.owners)
        except OSError as error:
            raise file_failed(error) from error
        return message

    def withdraw(self, message: NewMessage) -> None:
        """Forgets a staged reply that has no row."""
        folders.remove(self._home.outgoing, _staged(message))

    def deliver(self, message: NewMessage) -> None:
        """Moves a staged reply that has a row to its mailbox."""
        self._move(_staged(message), message.origin.group, message.origin.number, message.id)

    def deliver_left(self, *, starting: bool = False) -> None:
        """Does the same for all that were left. starting: nobody is about to write a row, so what has none goes."""
        for name, _ in folders.matching(self._home.outgoing, ".json", 1000):
            match = _STAGED.fullmatch(name)
            if match is None:
                continue
            row = self._database.read(partial(messages.known, message_id=match[1]))
            if row is not None:
                self._move(name, row["group_name"], int(match[2]), match[1])
            elif starting:
                folders.remove(self._home.outgoing, name)

    def _move(self, name: str, group: str, number: int, message_id: str) -> None:
        try:
            box = self._intake.get(number)
            if box is None:  # closed meanwhile: the next session of the group gets it
                box = self._intake.get(self._database.read(partial(mailboxes.standing, group=group)).number)
            if box is not None:
                target = box.mailbox.folder("input")
                os.rename(name, f"{message_id}.json", src_dir_fd=self._home.outgoing, dst_dir_fd=target)
        except (OSError, NanoclawError) as error:
            log.warning("reply not delivered", message=message_id, mailbox=number, error=str(error))


def _staged(message: NewMessage) -> str:
    return f"{message.id}-{message.origin.number}.json"
