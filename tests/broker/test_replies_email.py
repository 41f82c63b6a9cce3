"""What a mail server answers, as bytes, at any point: sent where it says so, else not sent, or nobody knows."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import outcomes
import pytest
from hostile import damaged
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from planted import ECHOES

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import breaker
from nanoclaw_broker.providers.email import server

PASSWORD = "pl4nted-password+of/the-broker=="
LETTER = {"to": ["anna@example.org", "ben@example.org"], "subject": "Release", "text": "It is out.\n"}
RIGHT = {
    "greeting": b"220 mail.test\r\n",
    "EHLO": b"250-mail.test\r\n250-SIZE 99999\r\n250 AUTH CRAM-MD5 PLAIN LOGIN\r\n",
    "AUTH": b"334 " + base64.b64encode(b"<1@mail.test>") + b"\r\n",
    "answer": b"235 welcome\r\n",
    "MAIL": b"250 OK\r\n",
    "RCPT": b"250 OK\r\n",
    "DATA": b"354 go on\r\n",
    "content": b"250 queued as 42\r\n",
    "QUIT": b"221 bye\r\n",
    "RSET": b"250 OK\r\n",
}
"""What a server says after each command; `answer`: to what a challenge was answered with; `content`: to the message."""
HANG, CUT = b"hang", b"cut"


class Bytes:
    """A mail server that says what it is told to. heard: what it was asked, in order."""

    def __init__(self) -> None:
        self.says = RIGHT
        self.heard: list[str] = []

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await self._talk(reader, writer)
        writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        step = "greeting"
        while True:
            self.heard.append(step)
            said = self.says.get(step, b"502 no\r\n")
            if said is CUT:
                return
            if said is not HANG:
                writer.write(said)
                await writer.drain()
            if step == "DATA" and said.startswith(b"354"):
                await reader.readuntil(b"\r\n.\r\n")
                step = "content"
                continue
            word = (await reader.readuntil(b"\r\n")).split()[:1]
            asked = word[0].decode(errors="replace").upper() if word else ""
            step = asked if asked in self.says else "answer"


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Bytes, int]]:
    far_side = Bytes()
    listening = await asyncio.start_server(far_side.take, "127.0.0.1", 0)
    async with listening:
        yield far_side, listening.sockets[0].getsockname()[1]


codes = st.sampled_from([b"250", b"220", b"354", b"334", b"235", b"221", b"421", b"450", b"535", b"550", b"999", b"000",
                         b"-25", b"2 5", b"xyz", b"25", b"", "２５０".encode(), b"\xff\xfe\xfd"])  # fmt: skip
words = (
    st.binary(max_size=40)
    | st.sampled_from(sorted(ECHOES)).map(lambda how: f" {ECHOES[how](PASSWORD)}".encode())
    | st.integers(240, 300).map(lambda before: b" " + b"x" * before + b" " + PASSWORD.encode())
    | st.sampled_from([b"OK", b"", b"\x00", b"\xff" * 9, b"x" * 9_000, b"=", b"not base64 !", b"AUTH", b"SIZE x y",
                       b"AUTH CRAM-MD5", b"AUTH=LOGIN", b"STARTTLS", b"\xed\xa0\x80"])
)  # fmt: skip
lines = st.tuples(
    codes, st.sampled_from([b" ", b"-", b"", b"\t"]), words, st.sampled_from([b"\r\n", b"\n", b"\r", b""])
)
said = (
    st.lists(lines.map(b"".join), min_size=1, max_size=4).map(b"".join)
    | st.sampled_from(sorted(RIGHT.values())).flatmap(lambda line: damaged(st.just(line)))
    | st.binary(max_size=60)
    | st.sampled_from([CUT, CUT, HANG, b"250-x\r\n" * 6_000, b"x" * 40_000])
)
speeches = st.dictionaries(st.sampled_from(sorted(RIGHT)), said, min_size=1, max_size=2).map(lambda odd: RIGHT | odd)


def last_word(said: bytes) -> bytes:
    """The line that ends a reply: where lines of one reply differ, it is the one that counts."""
    lines = said.split(b"\n")
    return next((line for line in lines if line[3:4] != b"-"), lines[-1])


def configure(home: Path, port: int) -> None:
    (home / "config").mkdir()
    (home / "config" / "providers.toml").write_text(
        f'[email]\nhost = "127.0.0.1"\nport = {port}\nsecurity = "plain"\nusername = "agents"\n'
        'senders = ["agents@example.com"]\nrecipients = ["example.org"]\n'
    )
    (home / "secrets" / "broker").mkdir()
    path = home / "secrets" / "broker" / "email_password"
    path.touch(mode=0o600)
    path.write_text(PASSWORD)


async def test_no_answer_of_a_mail_server_breaks_a_call_or_makes_believe(
    start: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent only where the last word says so; failed only where it was not taken over; unknown only after DATA."""
    monkeypatch.setattr(breaker, "FAILURES", 10**6)
    for name in ("BEFORE_SECONDS", "AFTER_SECONDS", "_GOODBYE_SECONDS"):
        monkeypatch.setattr(server, name, 0.2)
    async with serving() as (far_side, port):
        configure(home, port)
        limits = {f"{kind}_l2": 10**6 for kind in ("rate", "soft", "hard")}
        async with start(reconcile_seconds=3600, **limits) as broker:
            await broker.grant("email", pb.ACCESS_LEVEL_L2, allow_unverified=True)
            loop = asyncio.get_running_loop()
            tries = settings.default.max_examples // 8  # each is a whole call, and some wait

            @settings(max_examples=tries, suppress_health_check=list(HealthCheck))
            @given(speeches)
            @example(RIGHT)
            @example(RIGHT | {"AUTH": b"334 not base64 !\r\n"})
            @example(RIGHT | {"content": b"550 no " + PASSWORD.encode() + b"\r\n"})
            @example(RIGHT | {"content": CUT})
            @example(RIGHT | {"content": HANG})
            @example(RIGHT | {"content": b"250-x\r\n" * 6_000})
            @example(RIGHT | {"EHLO": b"250-x\r\n" * 6_000})
            def never(speech: dict[str, bytes]) -> None:
                far_side.says, far_side.heard = speech, []
                calling = broker.call("email", "send", LETTER)
                answer = asyncio.run_coroutine_threadsafe(calling, loop).result(20)
                outcomes.check(answer, PASSWORD, mutating=True)
                last = last_word(speech["content"]) if "content" in far_side.heard else b""
                if answer.status == pb.CALL_STATUS_EXECUTED:
                    assert last[:1] == b"2", answer
                elif answer.status == pb.CALL_STATUS_FAILED:
                    assert last[:1] in (b"", b"4", b"5"), answer
                    assert "nothing was sent" in answer.message
                else:
                    assert "DATA" in far_side.heard, answer

            await asyncio.to_thread(never)
