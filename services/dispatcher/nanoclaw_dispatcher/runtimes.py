"""The runtimes that a dispatcher has: those that its groups name, and those that left attempts behind."""

import os

from nanoclaw_dispatcher.groups import Groups
from nanoclaw_dispatcher.runtime import Runtime
from nanoclaw_dispatcher.settings import Settings
from nanoclaw_dispatcher.workspace import AGENT_UID

_USUAL = "unix:///var/run/docker.sock"


def built_in(settings: Settings, groups: Groups) -> dict[str, Runtime]:
    """By name. Raises INVALID_SETTING for an engine's address that leads nowhere."""
    home = settings.home.absolute()
    named = {group.runtime for group in groups}
    found: dict[str, Runtime] = {}
    # Each is loaded only where it is needed: the SDK brings a tenth of a dispatcher's memory with it.
    if "process" in named or any(home.glob("attempts/*/run")):
        from nanoclaw_dispatcher.process_runtime import ProcessRuntime

        found["process"] = ProcessRuntime(
            home, allow_unsandboxed=settings.allow_unsandboxed, use_sandbox=settings.sandbox
        )
    if "docker" in named or any(home.glob("attempts/*/container")):
        from nanoclaw_dispatcher.container_site import Site
        from nanoclaw_dispatcher.docker_engine import check_host
        from nanoclaw_dispatcher.docker_runtime import DockerRuntime

        host = check_host(settings.docker_host or _USUAL)
        site = Site(
            home=home,
            data=settings.docker_data or os.path.realpath(home),
            prefix=settings.docker_prefix,
            image=settings.image,
            agent_uid=settings.agent_uid or _agent_uid(),
            socket=host.removeprefix("unix://") if host.startswith("unix://") else "",
        )
        found["docker"] = DockerRuntime(site, host, seconds=settings.docker_seconds)
    return found


def _agent_uid() -> int:
    mine = os.geteuid()
    return AGENT_UID if mine == 0 or AGENT_UID in os.getgroups() else mine
