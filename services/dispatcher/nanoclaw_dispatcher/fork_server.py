"""The fork server: a small process that has the shim's code in memory and forks one for each attempt.

Starting a Python for each attempt would cost 15 ms, a fork of this one costs 1 ms. It keeps no state: killed, it is
started again with the next attempt; it ends by itself when its dispatcher does (the socket closes), the shims stay.
"""

import contextlib
import gc
import os
import signal
import socket
import sys

from nanoclaw_dispatcher import shim


def main() -> None:
    """Serves on the socket whose descriptor is the last argument: requests are `{number} {run folder}`.

    Answers come from the shims: `{number} {result} {why}`.
    """
    server = socket.socket(fileno=int(sys.argv[-1]))
    server.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps our shims
    gc.freeze()
    while message := server.recv(1 << 16).decode():
        number, _, directory = message.partition(" ")
        try:
            pid = os.fork()
        except OSError as error:
            _answer(server, number, shim.FAILED, error.strerror or "fork")
            continue
        if pid == 0:
            _be_shim(server, number, directory)


def _be_shim(server: socket.socket, number: str, directory: str) -> None:
    def reply(result: str, why: str) -> None:
        _answer(server, number, result, why)
        server.close()  # the dispatcher sees the fork server's death by the last copy closing

    status = 1
    try:
        shim.run(directory, reply)
        status = 0
    except Exception as error:
        if server.fileno() != -1:
            reply(shim.FAILED, f"{type(error).__name__}: {error}")
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(status)


def _answer(server: socket.socket, number: str, result: str, why: str) -> None:
    with contextlib.suppress(OSError):  # the dispatcher is gone; the next one reads the files
        server.send(f"{number} {result} {why}".encode())
