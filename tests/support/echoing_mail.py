"""A mail server that gives away every credential it knows, in each of its answers to a message or to a recipient."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from email import message_from_bytes, policy


class EchoingMail:
    """says: what it writes for an echo's name. credentials: passwords that came. A recipient `ECHO@refused.test` is
    refused, and a message to any other is taken over, or refused where its subject says so.
    """

    def __init__(self, says: Callable[[str], str]) -> None:
        self._says = says
        self.credentials: set[str] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """On a loopback port of its own."""
        listening = await asyncio.start_server(self._take, "127.0.0.1", 0)
        async with listening:
            yield listening.sockets[0].getsockname()[1]

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            writer.write(b"220 mail.test\r\n")
            while line := await reader.readline():
                word, _, rest = line.decode().strip().partition(" ")
                writer.write((await self._answer(word.upper(), rest, reader, writer)).encode() + b"\r\n")
        writer.close()

    async def _answer(self, word: str, rest: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        match word:
            case "EHLO":
                return "250-mail.test\r\n250 AUTH PLAIN"
            case "AUTH":
                self.credentials.add(base64.b64decode(rest.partition(" ")[2]).decode().split("\0")[2])
                return "235 welcome"
            case "RCPT" if "@refused.test" in rest:
                echo = rest.partition("<")[2].partition("@")[0].replace("_", " ")
                return f"550 no: {self._says(echo)}"
            case "DATA":
                writer.write(b"354 go on\r\n")
                message = message_from_bytes(await reader.readuntil(b"\r\n.\r\n"), policy=policy.default)
                how, _, echo = str(message["Subject"]).partition(" ")
                return f"{'250' if how == 'take' else '554'} {self._says(echo)}"
            case "QUIT":
                return "221 bye"
        return "250 OK"
