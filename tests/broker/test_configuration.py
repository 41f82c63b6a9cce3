"""config/providers.toml and further files like it: all hold together, and none silently outvotes another."""

from pathlib import Path

import pytest

from nanoclaw_broker.configuration import configuration
from nanoclaw_broker.settings import read
from nanoclaw_core.errors import NanoclawError

HOST = '[http.write."api.example.com"]\nidempotency_key = true\n'


def _home(tmp_path: Path, text: str) -> Path:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "providers.toml").write_text(text)
    return tmp_path


def _further(tmp_path: Path, text: str, name: str = "more.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_tables_of_further_files_stand_beside_those_of_the_operators_file(tmp_path: Path) -> None:
    """One host here, another there, another provider in a third: the broker knows them all."""
    one = _further(tmp_path, '[http.write."127.0.0.1:8080"]\nbearer_secret = "a_token"\n')
    two = _further(tmp_path, '[github]\nrepos = ["acme/shop"]\n', "two.toml")
    assert configuration(_home(tmp_path, HOST), [one, two]) == {
        "http": {
            "write": {"api.example.com": {"idempotency_key": True}, "127.0.0.1:8080": {"bearer_secret": "a_token"}}
        },
        "github": {"repos": ["acme/shop"]},
    }


@pytest.mark.parametrize("value", ["true", "false"])
def test_a_value_that_two_files_set_is_refused(tmp_path: Path, value: str) -> None:
    """Also the same one: whoever changes it in one file must not wonder."""
    more = _further(tmp_path, f'[http.write."api.example.com"]\nidempotency_key = {value}\n')
    with pytest.raises(
        NanoclawError, match=r"more\.toml: http\.write\.api\.example\.com\.idempotency_key is set"
    ) as caught:
        configuration(_home(tmp_path, HOST), [more])
    assert caught.value.reason == "INVALID_SETTING"


def test_a_table_against_a_value_is_refused(tmp_path: Path) -> None:
    """Whichever of the two came first."""
    more = _further(tmp_path, 'http = "no table"\n')
    with pytest.raises(NanoclawError, match="http is set in another file"):
        configuration(_home(tmp_path, HOST), [more])


@pytest.mark.parametrize("text", [None, "[http"])
def test_a_further_file_that_cannot_be_read_is_named(tmp_path: Path, text: str | None) -> None:
    """It was asked for, so it must be there; config/providers.toml need not."""
    assert configuration(tmp_path) == {}
    path = tmp_path / "gone.toml" if text is None else _further(tmp_path, text, "gone.toml")
    with pytest.raises(NanoclawError, match=r"gone\.toml"):
        configuration(tmp_path, [path])


def test_the_setting_takes_several_files() -> None:
    """Comma separated, with white space as people write it."""
    settings = read({"NANOCLAW_BROKER_PROVIDERS": "/etc/a.toml, b.toml,"})
    assert settings.provider_files == [Path("/etc/a.toml"), Path("b.toml")]
