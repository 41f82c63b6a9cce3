"""What a Docker engine's failures mean here: whether they pass, and what somebody has to do about them."""

import re

from nanoclaw_core.errors import Kind, NanoclawError

_DISK_FULL = re.compile("no space left on device|disk quota exceeded|not enough space", re.IGNORECASE)
_NO_IMAGE = re.compile("no such image|image.*not found|reference does not exist", re.IGNORECASE)
_NO_SOURCE = re.compile("bind source path does not exist", re.IGNORECASE)
_HOST = "NANOCLAW_DISPATCHER_DOCKER_HOST"


def unreachable(host: str, why: str) -> NanoclawError:
    """Nobody answers at the address."""
    return NanoclawError(
        Kind.UNAVAILABLE,
        "ENGINE_UNREACHABLE",
        f"no Docker engine answers at {host}: {why}",
        next_step=f"start the engine, or correct {_HOST}; what waits goes on by itself then",
    )


def shut(host: str) -> NanoclawError:
    """The socket may not be opened by us. It passes: an engine that starts hands its socket over a moment later."""
    return NanoclawError(
        Kind.UNAVAILABLE,
        "ENGINE_SHUT",
        f"the dispatcher's user may not open {host}",
        next_step=f"add the user to the socket's group, or point {_HOST} at a socket proxy or a rootless engine",
    )


def silent(what: str, seconds: float) -> NanoclawError:
    """It took the call, or the connection, and says nothing."""
    return NanoclawError(
        Kind.UNAVAILABLE,
        "ENGINE_SILENT",
        f"the Docker engine has not answered within {seconds:g} s: {what}",
        next_step="look at the engine's log; restart it if it hangs",
    )


def without_limits(which: str) -> NanoclawError:
    """It would run a container without them, which may then take the machine with it."""
    return NanoclawError(
        Kind.PRECONDITION,
        "ENGINE_WITHOUT_LIMITS",
        f"the engine can't hold a container to its limits: {which}",
        next_step="give it the cpu, memory and pids controllers (rootless: docs/docker.md)",
    )


def answered(what: str, status: int, text: str) -> NanoclawError:
    """An error that the engine, or a proxy before it, answered a call with."""
    if _DISK_FULL.search(text):
        return NanoclawError(
            Kind.UNAVAILABLE,
            "ENGINE_DISK_FULL",
            f"the Docker engine's disk is full: {what}",
            next_step="free space below the engine's data folder (docker system df); what waits goes on by itself then",
        )
    if status == 404 and _NO_IMAGE.search(text):
        return NanoclawError(
            Kind.PRECONDITION,
            "IMAGE_MISSING",
            f"{text[:200].rstrip('.')}: {what}",
            next_step="build or pull the image on the engine, or correct the group's image; none is pulled by itself",
        )
    if status == 400 and _NO_SOURCE.search(text):
        return NanoclawError(
            Kind.PRECONDITION,
            "DATA_NOT_ON_ENGINE",
            f"the engine's machine does not have a folder to be mounted: {text[:300]}",
            next_step="set NANOCLAW_DISPATCHER_DOCKER_DATA to where the folder of attempts/ and groups/ lies there",
        )
    if status in (401, 403):
        return NanoclawError(
            Kind.PRECONDITION,
            "ENGINE_FORBIDS",
            f"{what} is forbidden ({status}): {text[:200]}",
            next_step="let the socket proxy pass the calls that docs/docker.md lists",
        )
    kind, reason = (Kind.UNAVAILABLE, "ENGINE_FAILED") if status >= 500 else (Kind.PRECONDITION, "ENGINE_REFUSES")
    next_step = "see the engine's log" if status >= 500 else "correct the group in config/groups.toml"
    return NanoclawError(kind, reason, f"{what}: {text[:300]}", next_step=next_step, status=status)
