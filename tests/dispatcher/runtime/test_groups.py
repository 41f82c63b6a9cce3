"""The groups' configuration: what is not understood is refused by name, never guessed."""

import dataclasses
from pathlib import Path

import pytest

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import groups
from nanoclaw_dispatcher.groups import Group, Mount, Role

MAIN = '[groups.main]\nrole = "main"\n'


def test_the_packaged_groups_are_main_developer_and_security() -> None:
    """What runs when nobody has configured anything: reference agents, three roles."""
    found = groups.load()
    assert {group.name: group.role for group in found} == {
        "main": Role.MAIN,
        "developer": Role.EXECUTOR,
        "security": Role.APPROVER,
    }
    assert all(group.builtin and group.runtime == "process" for group in found)
    assert found.get("nobody") is None


def test_a_file_replaces_the_packaged_groups_and_its_defaults_hold_for_all(tmp_path: Path) -> None:
    """What a group says itself wins over the defaults, and those over the code's."""
    path = tmp_path / "groups.toml"
    path.write_text(
        """
[defaults]
cpu = 2
wip_hard = true
[groups.main]
role = "main"
[groups.research]
role = "executor"
command = ["node", "agent.js"]
cpu = 0.5
grace = 0
env = { MODEL = "small" }
mounts = [{ source = "/data", target = "/data" }, { source = "/out", target = "/out", writable = true }]
"""
    )
    found = groups.load(path)
    assert [group.name for group in found] == ["main", "research"]
    assert found.by_name["main"] == Group("main", Role.MAIN, cpu=2.0, wip_hard=True)
    research = found.by_name["research"]
    assert research.command == ("node", "agent.js")
    assert (research.cpu, research.grace, research.wip_hard, research.memory_mb) == (0.5, 0.0, True, 1024)
    assert dict(research.env) == {"MODEL": "small"}
    assert research.mounts == (Mount("/data", "/data"), Mount("/out", "/out", writable=True))


def test_no_file_means_the_packaged_ones(tmp_path: Path) -> None:
    """config/groups.toml is optional."""
    assert [group.name for group in groups.load(tmp_path / "none.toml")] == ["main", "developer", "security"]


def test_every_key_has_a_reader_and_a_default() -> None:
    """A field that nobody can set, or a key that lands nowhere, would be a trap."""
    fields = {field.name for field in dataclasses.fields(Group)}
    assert fields - {"name"} == set(groups.KEYS)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[group.main]\n", "group: unknown; known keys are defaults, groups"),
        (MAIN + "memory = 1\n", "groups.main.memory: unknown"),
        ("[defaults]\nrole = 'main'\n" + MAIN, "defaults.role: unknown"),
        ("[defaults]\ncpus = 1\n" + MAIN, "defaults.cpus: unknown"),
        ("[groups.main]\n", "groups.main.role: is missing"),
        ("[groups.main]\nrole = 'boss'\n", "groups.main.role: must be main, executor or approver"),
        ("[groups.other]\nrole = 'main'\n", "exactly one has the role main"),
        (MAIN + "[groups.m2]\nrole = 'main'\n", "exactly one has the role main"),
        ("", "exactly one has the role main"),
        (MAIN + "[groups.Big]\nrole = 'executor'\n", "groups.Big: "),
        (MAIN + "[groups.'../x']\nrole = 'executor'\n", "groups.../x: "),
        ("groups = 1\n", "groups: must be a table"),
        ("[groups]\nmain = 1\n", "groups.main: must be a table"),
        (MAIN + "cpu = 0\n", "groups.main.cpu: must be a number above 0"),
        (MAIN + "cpu = nan\n", "groups.main.cpu: must be a number above 0"),
        (MAIN + "wall_timeout = true\n", "groups.main.wall_timeout: must be a number above 0"),
        (MAIN + "grace = -1\n", "groups.main.grace: must be a number above 0"),
        (MAIN + "memory_mb = 1.5\n", "groups.main.memory_mb: must be a whole number of at least 1"),
        (MAIN + "pids = true\n", "groups.main.pids: must be a whole number of at least 1"),
        (MAIN + "wip_limit = 0\n", "groups.main.wip_limit: must be a whole number of at least 1"),
        (MAIN + "wip_hard = 'yes'\n", "groups.main.wip_hard: must be true or false"),
        (MAIN + "runtime = 'podman'\n", "groups.main.runtime: must be process or docker"),
        (MAIN + "command = 'sh'\n", "groups.main.command: must be a list of strings"),
        (MAIN + "command = ['sh', 1]\n", "groups.main.command: must be a string without NUL"),
        (MAIN + "command = ['']\n", "groups.main.command: must begin with a program"),
        (MAIN + 'command = ["sh", "\\u0000"]\n', "groups.main.command: must be a string without NUL"),
        (MAIN + "env = { NANOCLAW_ATTEMPT = 'x' }\n", "groups.main.env.NANOCLAW_ATTEMPT: is not a variable's name"),
        (MAIN + "env = { TRACEPARENT = 'x' }\n", "groups.main.env.TRACEPARENT: is not a variable's name"),
        (MAIN + "env = { 'A=B' = 'x' }\n", "groups.main.env.A=B: is not a variable's name"),
        (MAIN + "env = { A = 1 }\n", "groups.main.env.A: must be a string without NUL"),
        (MAIN + "mounts = [{ source = '/a' }]\n", "groups.main.mounts[0].target: must be an absolute, normal path"),
        (MAIN + "mounts = [{ source = 'a', target = '/a' }]\n", "groups.main.mounts[0].source: must be an absolute"),
        (
            MAIN + "mounts = [{ source = '/a', target = '/workspace/../etc' }]\n",
            "groups.main.mounts[0].target: must be",
        ),
        (MAIN + "mounts = [{ source = '/a', target = '/a', rw = true }]\n", "groups.main.mounts[0].rw: unknown"),
        (MAIN + "mounts = { source = '/a' }\n", "groups.main.mounts: must be a list of tables"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(tmp_path: Path, text: str, complaint: str) -> None:
    """The message begins with the file and the key, so that it can be mended without reading code."""
    path = tmp_path / "groups.toml"
    path.write_text(text)
    with pytest.raises(NanoclawError) as caught:
        groups.load(path)
    assert (caught.value.kind, caught.value.reason) == (Kind.INVALID, "INVALID_GROUPS")
    assert caught.value.message.startswith(f"{path}: ")
    assert complaint in caught.value.message


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    """A syntax error, or bytes that are no text, stop the start; they do not bring the packaged groups back."""
    path = tmp_path / "groups.toml"
    for content in (b"[groups", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(NanoclawError, match="INVALID_GROUPS"):
            groups.load(path)
