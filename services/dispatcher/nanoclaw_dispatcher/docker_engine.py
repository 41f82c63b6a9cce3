"""The Docker engine, by its SDK, which nothing else imports: blocking calls with time-outs, errors in our words."""

import contextlib
import errno
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import docker
import docker.utils
import requests
import urllib3

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import engine_errors

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?\d*Z")
_NEVER = "0001-01-01"
_CONNECTIONS = 32
_LIMITS = {"MemoryLimit": "memory", "CpuCfsQuota": "cpu", "PidsLimit": "pids"}
"""What an engine says of the limits that it holds containers to."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine sees it. status: the engine's word. Times are TEXT, empty for never."""

    status: str
    running: bool
    exit_code: int
    started_at: str
    ended_at: str
    out_of_memory: bool
    error: str
    labels: Mapping[str, str]


class Conflict(Exception):
    """The name is taken, or the container is in a state that does not allow the call."""


class Gone(Exception):
    """There is no such container."""


class StartRefused(Exception):
    """The engine can't start this container, and says why; another one may be started all the same."""


class DockerEngine:
    """One engine at `host` (`unix://…`, `tcp://…`); `seconds`: how long it may take to answer. For any thread.

    Every call raises NanoclawError: UNAVAILABLE where it may pass, PRECONDITION where somebody has to change something.
    """

    def __init__(self, host: str, seconds: int) -> None:
        self.host = host
        self.seconds = seconds
        self._client: docker.APIClient | None = None
        self._limits_hold = False  # known of the engine that the client speaks to
        self._lock = threading.Lock()

    def create(self, name: str, config: Mapping[str, Any]) -> list[str]:
        """Makes a container; answers the engine's warnings. Raises Conflict if there is one of that name."""
        with self._told(f"create container {name}") as api:
            answer = api.create_container_from_config(dict(config), name)
        return list(answer.get("Warnings") or ())

    def discards(self) -> list[str]:
        """Which limits it holds no container to: memory, cpu, pids. Not every engine warns of it at each container."""
        if self._limits_hold:
            return []
        with self._told("ask for its limits") as api:
            told = api.info()
        discarded = [limit for name, limit in _LIMITS.items() if told.get(name) is False]
        self._limits_hold = not discarded
        return discarded

    def start(self, name: str) -> None:
        """Starts it; nothing if it runs. Raises Gone, StartRefused."""
        try:
            with self._told(f"start container {name}") as api:
                api.start(name)
        except NanoclawError as error:
            if "status" in error.facts or error.reason in ("IMAGE_MISSING", "DATA_NOT_ON_ENGINE"):
                raise StartRefused(error.message) from error
            raise

    def inspect(self, name: str) -> Container | None:
        """What it is now; None for none."""
        try:
            with self._told(f"inspect container {name}") as api:
                found = api.inspect_container(name)
        except Gone:
            return None
        state = found["State"]
        return Container(
            status=state["Status"],
            running=state["Running"],
            exit_code=state["ExitCode"],
            started_at=_text(state["StartedAt"]),
            ended_at=_text(state["FinishedAt"]),
            out_of_memory=state["OOMKilled"],
            error=state.get("Error", ""),
            labels=found["Config"].get("Labels") or {},
        )

    def stop(self, name: str, grace: int) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds, which the engine counts; answers when it is over, or was."""
        with self._told(f"stop container {name}", over=True) as api:
            api.stop(name, timeout=grace)

    def kill(self, name: str) -> None:
        """SIGKILL; nothing if it is over."""
        with self._told(f"kill container {name}", over=True) as api:
            api.kill(name)

    def output(self, name: str, lines: int) -> bytes:
        """The last lines that it wrote, both streams as they came."""
        try:
            with self._told(f"read the output of {name}") as api:
                return bytes(api.logs(name, tail=lines))
        except (Gone, Conflict):
            return b""

    def last_output_at(self, name: str) -> str:
        """TEXT time of its last line; empty for none."""
        try:
            with self._told(f"read the output of {name}") as api:
                line = bytes(api.logs(name, tail=1, timestamps=True))
        except (Gone, Conflict):
            return ""
        return _text(line.partition(b" ")[0].decode("ascii", "replace"))

    def remove(self, name: str) -> None:
        """Forgets it; nothing if it is gone. Raises Conflict while it runs."""
        try:
            with self._told(f"remove container {name}") as api:
                api.remove_container(name, v=True)
        except Gone:
            return

    def statuses(self, label: str) -> dict[str, str]:
        """The names of all containers with a label `key=value`, each with the engine's word for what it does."""
        with self._told("list containers") as api:
            found = api.containers(all=True, filters={"label": [label]})
        return {name[1:]: one["State"] for one in found for name in one["Names"] or () if name.count("/") == 1}

    def image(self, reference: str) -> Mapping[str, Any]:
        """The configuration of an image: Entrypoint, Cmd, Volumes, …. Raises IMAGE_MISSING."""
        with self._told(f"image {reference}") as api:
            return dict(api.inspect_image(reference)["Config"] or {})

    def endings(self, label: str) -> "Endings":
        """Names of containers with the label, each when one ends or disappears; for as long as the engine goes on."""
        with self._told("watch containers") as api:
            filters = {"type": ["container"], "event": ["die", "destroy"], "label": [label]}
            return Endings(api.events(filters=filters, decode=True))

    @contextlib.contextmanager
    def _told(self, what: str, *, over: bool = False) -> Iterator[Any]:
        """The client; its errors become ours. over: one that is gone, or does not run, is as good as done."""
        try:
            yield self._connected()
        except docker.errors.APIError as error:
            status, text = error.status_code or 500, str(error.explanation or error)
            if status == 304 or (over and status in (404, 409)):
                return
            told = engine_errors.answered(what, status, text)
            if status == 409:
                raise Conflict(text) from error
            if status == 404 and told.reason != "IMAGE_MISSING":
                raise Gone(text) from error
            raise told from error
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise engine_errors.silent(what, self.seconds) from error
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from error

    def _connected(self) -> docker.APIClient:
        if (client := self._client) is not None:
            return client
        try:
            client = docker.APIClient(self.host, version="auto", timeout=self.seconds, max_pool_size=_CONNECTIONS)
        except docker.errors.DockerException as error:
            cause = error.__cause__ or error.__context__ or error
            if isinstance(cause, (docker.errors.APIError, requests.exceptions.Timeout)):
                raise cause from error
            raise self._unreachable(cause) from error
        client.trust_env = False  # no HTTP proxy between us and the engine
        client.headers["Connection"] = (
            "close"  # a kept connection may be one to an engine that has been restarted since
        )
        with self._lock:
            if self._client is None:
                self._client = client
                return client
        client.close()  # another thread was quicker
        return self._connected()

    def close(self) -> None:
        """Gives connections back; the next call makes new ones, maybe to another engine."""
        client, self._client, self._limits_hold = self._client, None, False
        if client is not None:
            client.close()

    def _unreachable(self, error: BaseException) -> NanoclawError:
        self.close()  # the next engine there may speak another version
        if f"[Errno {errno.EACCES}]" in str(error) or f"({errno.EACCES}, " in str(error):
            return engine_errors.shut(self.host)
        return engine_errors.unreachable(self.host, str(error)[:200])


class Endings:
    """A stream of names, to be read by one thread and closed by any."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[str]:
        try:
            for event in self._stream:
                yield str(event["Actor"]["Attributes"].get("name", ""))
        finally:
            self._stream._response.close()  # what the SDK's own close leaves to the garbage collector

    def close(self) -> None:
        """Ends the reading, from any thread."""
        with contextlib.suppress(OSError, AttributeError):  # it has ended by itself
            self._stream.close()


def check_host(host: str) -> str:
    """The address, if the SDK can go there: a socket or a TCP port. Raises INVALID_SETTING."""
    try:
        parsed = str(docker.utils.parse_host(host))
    except docker.errors.DockerException as error:
        parsed, why = "", str(error)
    else:
        why = "only unix:// and tcp:// lead to an engine here"
    if not parsed.startswith(("http+unix://", "http://")):
        raise NanoclawError(
            Kind.INVALID,
            "INVALID_SETTING",
            f"NANOCLAW_DISPATCHER_DOCKER_HOST={host!r}: {why}",
            next_step="set it, or DOCKER_HOST, to unix:///path/docker.sock or tcp://socket-proxy:2375",
        )
    return host


def _text(stamp: str) -> str:
    found = _TIME.fullmatch(stamp)
    if found is None or stamp.startswith(_NEVER):
        return ""
    return f"{found[1]}.{(found[2] or '').ljust(6, '0')}Z"
