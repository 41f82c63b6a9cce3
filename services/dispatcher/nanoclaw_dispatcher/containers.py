"""Attempts as containers: what is done to one, in straight, blocking lines for a thread."""

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

from nanoclaw_core.errors import Kind, NanoclawError, not_found
from nanoclaw_dispatcher import attempt_files as files
from nanoclaw_dispatcher import container_state as state
from nanoclaw_dispatcher import engine_errors
from nanoclaw_dispatcher.attempt_spec import AttemptSpec, check_attempt_id
from nanoclaw_dispatcher.container_site import LABEL_HOME, Site, check_mounts, may_enter
from nanoclaw_dispatcher.container_spec import configuration, prepare
from nanoclaw_dispatcher.docker_engine import Conflict, Container, DockerEngine, Gone, StartRefused
from nanoclaw_dispatcher.runtime import LAST_LINES_BYTES, EndReason, Observed, RunState
from nanoclaw_dispatcher.tail import tail_lines


class Containers:
    """The containers of one home on one engine."""

    def __init__(self, engine: DockerEngine, site: Site) -> None:
        self._engine = engine
        self._site = site

    def name(self, attempt_id: str) -> str:
        """The container's name."""
        return self._site.prefix + check_attempt_id(attempt_id)

    def create(self, spec: AttemptSpec) -> Observed:
        """See Runtime.create."""
        site, name = self._site, self.name(spec.attempt_id)
        folder = site.folder(spec.attempt_id)
        if folder.exists() and (seen := self.inspect(spec.attempt_id)).state is not RunState.ABSENT:
            return seen
        check_mounts(spec.group, site)
        if limits := self._engine.discards():
            raise engine_errors.without_limits(", ".join(limits))
        image = self._engine.image(spec.group.image or site.image)
        try:
            prepare(spec, site)
        except OSError as error:
            raise _unavailable(error) from error
        try:
            warnings = self._engine.create(name, configuration(spec, site, image))
        except Conflict:
            return self._created_before(spec.attempt_id)
        if discarded := [warning for warning in warnings if "discarded" in warning]:
            self._engine.remove(name)
            raise engine_errors.without_limits(" ".join(discarded))
        return Observed(spec.attempt_id, RunState.CREATED)

    def _created_before(self, attempt_id: str) -> Observed:
        container = self._engine.inspect(self.name(attempt_id))
        if container is None:
            raise NanoclawError(
                Kind.UNAVAILABLE, "CONTAINER_GOES", f"{attempt_id} is just being removed", next_step="try again"
            )
        if (owner := container.labels.get(LABEL_HOME)) != self._site.data:
            raise NanoclawError(
                Kind.PRECONDITION,
                "CONTAINER_NAME_TAKEN",
                f"the engine has a container {self.name(attempt_id)} of {owner or 'somebody else'}",
                next_step="remove it, or set NANOCLAW_DISPATCHER_DOCKER_PREFIX to tell the two installations apart",
            )
        return state.observe(attempt_id, self._site.folder(attempt_id), container)

    def start(self, attempt_id: str) -> Observed:
        """See Runtime.start."""
        folder = self._site.folder(attempt_id)
        with state.locked(folder):
            seen = self.inspect(attempt_id)
            if seen.state is RunState.ABSENT:
                raise not_found("attempt", attempt_id, "attempt_id", "create it first")
            if seen.state is not RunState.CREATED:
                return seen
            self._check_mailbox(folder)
            files.write(str(folder), state.ASKED, {"at": files.now_text()})
            try:
                self._engine.start(self.name(attempt_id))
            except StartRefused as error:
                return self._never_runs(seen, EndReason.START_FAILED, str(error))
            except (Gone, Conflict):
                pass  # somebody removes it
            return self.inspect(attempt_id)

    def _check_mailbox(self, folder: Path) -> None:
        mailbox = Path(str((files.read(str(folder), files.SPEC) or {}).get("mailbox", "")))
        if not mailbox.is_absolute() or not mailbox.is_dir():
            raise NanoclawError(
                Kind.PRECONDITION, "NO_MAILBOX", f"{mailbox} is not there", next_step="open the mailbox first"
            )
        uid = self._site.agent_uid
        if not may_enter(mailbox, uid):
            raise NanoclawError(
                Kind.PRECONDITION,
                "MAILBOX_SHUT",
                f"agents run as user {uid}, who may not enter {mailbox}",
                next_step=f"set NANOCLAW_GATEWAY_AGENT_UID={uid}, so that the gateway gives mailboxes to that group",
            )

    def seal(self, attempt_id: str) -> Observed:
        """Ends a created attempt without it ever having run, or what a death within `create` left of one; one that is
        more than created stays as it is."""
        with state.locked(self._site.folder(attempt_id)) as there:
            seen = self.inspect(attempt_id)
            if seen.state is RunState.CREATED or (there and seen.state is RunState.ABSENT):
                return self._never_runs(seen, EndReason.STOPPED)
            return seen

    def _never_runs(self, seen: Observed, reason: EndReason, error: str = "") -> Observed:
        """The container goes first: a start of it that is still under way in the engine finds none."""
        try:
            self._engine.remove(self.name(seen.attempt_id))
        except Conflict:  # it runs after all
            return self.inspect(seen.attempt_id)
        code = state.SEALED if reason is EndReason.STOPPED else 127 if "not found" in error else state.NOT_STARTED
        end = replace(seen, state=RunState.EXITED, exit_code=code, ended_at=files.now_text(), reason=reason)
        return state.record(self._site.folder(seen.attempt_id), end, error)

    def inspect(self, attempt_id: str) -> Observed:
        """See Runtime.inspect."""
        return state.observe(attempt_id, self._site.folder(attempt_id), self._ours(attempt_id))

    def _ours(self, attempt_id: str) -> Container | None:
        container = self._engine.inspect(self.name(attempt_id))
        return container if container is not None and container.labels.get(LABEL_HOME) == self._site.data else None

    def stop(self, attempt_id: str, grace: int) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds; answers when it is over."""
        self._note_stop(attempt_id)
        self._engine.stop(self.name(attempt_id), grace)

    def kill(self, attempt_id: str) -> None:
        """SIGKILL."""
        self._note_stop(attempt_id)
        self._engine.kill(self.name(attempt_id))

    def _note_stop(self, attempt_id: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            files.write(str(self._site.folder(attempt_id)), files.STOP, {"at": files.now_text()})

    def last_lines(self, attempt_id: str) -> str:
        """See Runtime.last_lines."""
        output = self._engine.output(self.name(attempt_id), LAST_LINES_BYTES) if self._ours(attempt_id) else b""
        error = str((files.read(str(self._site.folder(attempt_id)), state.END) or {}).get("error", ""))
        return tail_lines(output + error.encode(), cut=output.count(b"\n") >= LAST_LINES_BYTES)

    def last_output_at(self, attempt_id: str) -> str:
        """See Runtime.last_output_at."""
        container = self._ours(attempt_id)
        if container is None or not container.started_at:
            return ""
        return self._engine.last_output_at(self.name(attempt_id)) or container.started_at

    def remove(self, attempt_id: str) -> None:
        """See Runtime.remove."""
        folder = self._site.folder(attempt_id)
        with state.locked(folder) as there:
            try:
                if self._ours(attempt_id) is not None:
                    self._engine.remove(self.name(attempt_id))
            except Conflict as error:
                raise NanoclawError(
                    Kind.PRECONDITION, "ATTEMPT_ALIVE", f"{attempt_id}: {error}", next_step="stop it first"
                ) from error
            if there:
                folder.rename(mkdtemp(prefix=".gone-", dir=folder.parent))
        for leftover in folder.parent.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with contextlib.suppress(OSError):  # the mailbox may still be in it
            folder.parent.rmdir()

    def list(self) -> list[Observed]:
        """See Runtime.list."""
        prefix, site = self._site.prefix, self._site
        statuses = self._engine.statuses(site.label)
        known = {name.removeprefix(prefix): status for name, status in statuses.items() if name.startswith(prefix)}
        attempts = known.keys() | {path.parent.name for path in (site.home / "attempts").glob("*/container")}
        found = []
        for attempt_id in sorted(attempts):
            ended = None
            if known.get(attempt_id) not in ("running", "paused", "restarting"):
                ended = state.recorded_end(attempt_id, site.folder(attempt_id))
            found.append(ended or self.inspect(attempt_id))
        # One that is prepared, and has no container yet, is to be swept too, should nobody make it one.
        return [replace(seen, state=RunState.CREATED) if seen.state is RunState.ABSENT else seen for seen in found]


def _unavailable(error: OSError) -> NanoclawError:
    return NanoclawError(
        Kind.UNAVAILABLE, "RUNTIME_UNAVAILABLE", f"the docker runtime: {error.strerror}", next_step="try again"
    )
