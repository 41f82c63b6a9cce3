"""Settings are what they say, or the start ends with a line that names the variable and what to do."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.settings import load
from nanoclaw_dispatcher.settings import load as of_dispatcher
from nanoclaw_governance.settings import load as of_governance
from nanoclaw_ipc_gateway.settings import Settings as GatewaySettings


@dataclass(frozen=True)
class Some:
    """One of each sort."""

    home: Path = Path("var")
    name: str = "x"
    number: int = 7
    seconds: float = 1.5
    wanted: bool = True
    folder: Path | None = Path("f")


def of(**given: str) -> Some:
    """From the variables of these names, the home shared."""
    environ = {"NC_HOME" if name == "home" else f"NC_SOME_{name.upper()}": value for name, value in given.items()}
    return load(Some, "NC_SOME_", environ, shared={"home": "NC_HOME"}, strict=("NC_TLS_",), positive=("number",))


def test_what_is_set_holds_and_the_rest_stands_as_it_was() -> None:
    """Each sort of field; an empty text is none where there may be none; paths are absolute from here on."""
    assert of() == Some()
    assert of(home="h", name="", number="3", seconds="0", wanted="off", folder="") == Some(
        Path("h").absolute(), "", 3, 0.0, False, None
    )
    assert [of(wanted=text).wanted for text in ("1", "TRUE", "yes", "0", "No", "")] == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("field", "text", "why"),
    [
        ("number", "seven", "is not a whole number"),
        ("number", "1.5", "is not a whole number"),
        ("number", "-1", "is below 0, or no finite number"),
        ("number", "0", "is not above 0"),
        ("seconds", "soon", "is not a number"),
        ("seconds", "", "is not a number"),
        ("seconds", "-0.5", "is below 0, or no finite number"),
        ("seconds", "nan", "is below 0, or no finite number"),
        ("seconds", "inf", "is below 0, or no finite number"),
        ("wanted", "maybe", "is not 1 or 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(field: str, text: str, why: str) -> None:
    """Never taken for the default, and never found out later, when a service spins or does nothing."""
    with pytest.raises(NanoclawError) as caught:
        of(**{field: text})
    error, variable = caught.value, f"NC_SOME_{field.upper()}"
    assert (error.kind, error.reason, error.message) == (Kind.INVALID, "INVALID_SETTING", f"{variable}={text!r} {why}")
    assert error.next_step.startswith(f"set {variable} to ")


@pytest.mark.parametrize("variable", ["NC_SOME_NAMES", "NC_TLS_X"])
def test_a_variable_that_nobody_reads_is_refused(variable: str) -> None:
    """A typo would else change nothing, silently. Other services' variables are theirs."""
    with pytest.raises(NanoclawError, match=variable) as caught:
        load(Some, "NC_SOME_", {variable: "1", "NC_OTHER_X": "1"}, strict=("NC_TLS_",))
    assert caught.value.reason == "UNKNOWN_SETTING"
    assert "NC_SOME_NAME" in caught.value.next_step


@pytest.mark.parametrize(
    ("read", "variable"),
    [
        (of_governance, "NANOCLAW_GOVERNANCE_HEARTBEAT_SECONDS"),
        (of_dispatcher, "NANOCLAW_DISPATCHER_LEASE_SECONDS"),
        (of_dispatcher, "NANOCLAW_DISPATCHER_SWEEP_SECONDS"),
        (of_dispatcher, "NANOCLAW_DISPATCHER_MAX_CONTAINERS"),
        (of_dispatcher, "NANOCLAW_DISPATCHER_DOCKER_SECONDS"),
        (GatewaySettings.read, "NANOCLAW_GATEWAY_WORKERS"),
        (GatewaySettings.read, "NANOCLAW_GATEWAY_SWEEP_SECONDS"),
    ],
)
def test_nothing_is_set_to_spin_or_to_do_nothing(read, variable: str) -> None:
    """A pause of no time would take a core; no worker and no slot would take in and start nothing, without a word."""
    with pytest.raises(NanoclawError, match=f"{variable}='0' is not above 0"):
        read({variable: "0"})
    assert read({variable: "2"})
