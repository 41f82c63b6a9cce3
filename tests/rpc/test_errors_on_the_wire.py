"""An error keeps its identity across the wire; what is not ours shows nothing but an opaque id."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw.governance.v1 import governance_pb2_grpc as stubs
from nanoclaw_core.errors import Kind, NanoclawError, Violation
from nanoclaw_rpc.status import CODES, from_status, to_status

WORD = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
REASON = st.from_regex(r"[A-Z][A-Z_]{2,20}", fullmatch=True)
VIOLATIONS = st.lists(st.builds(Violation, REASON, WORD, WORD, WORD), max_size=5)


def parts(error: NanoclawError) -> tuple[object, ...]:
    return error.kind, error.reason, error.message, error.violations, error.next_step, dict(error.facts)


@given(
    kind=st.sampled_from(Kind),
    reason=REASON,
    message=WORD,
    violations=VIOLATIONS,
    next_step=WORD,
    facts=st.dictionaries(st.from_regex(r"fact_[a-z]{1,8}", fullmatch=True), WORD, max_size=4),
)
def test_an_error_comes_back_equal_in_every_part(kind, reason, message, violations, next_step, facts):
    """from_status(to_status(e)) == e: kind, reason, message, violations in order, next steps and facts."""
    error = NanoclawError(kind, reason, message, violations=violations, next_step=next_step, **facts)
    wire = to_status(error).SerializeToString()
    assert parts(from_status(status_pb2.Status.FromString(wire))) == parts(error)


def test_every_kind_has_a_status_code_of_its_own():
    """The mapping is one to one, so the kind can be told from the code alone."""
    assert set(CODES) == set(Kind)
    assert len(set(CODES.values())) == len(Kind)
    assert CODES[Kind.CONFLICT] is grpc.StatusCode.ABORTED
    assert CODES[Kind.PRECONDITION] is grpc.StatusCode.FAILED_PRECONDITION
    assert CODES[Kind.EXHAUSTED] is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in {Kind.INTERNAL, Kind.UNAVAILABLE}])
async def test_a_client_raises_what_the_servicer_raised(serve, dial, spec, puppet, kind):
    """Over a real socket: the same kind, reason, message, all violations, next steps and facts."""
    violations = [Violation("A_MISSING", "a is missing", "add a", "task.a"), Violation("B_MISSING", "b is missing")]
    raised = NanoclawError(kind, "NOT_LIKE_THIS", "no → no", violations=violations, next_step="do so", expected=3)

    def refuse(_request):
        raise raised

    puppet.on_get = refuse
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    with pytest.raises(NanoclawError) as caught:
        await stub.GetTask(pb.GetTaskRequest())
    assert parts(caught.value) == parts(raised)


def details_of(error: NanoclawError) -> dict[str, object]:
    found = {}
    for detail in to_status(error).details:
        name = detail.type_url.rpartition(".")[2]
        message = getattr(error_details_pb2, name)()
        assert detail.Unpack(message)
        found[name] = message
    return found


def test_foreign_clients_find_google_s_standard_details():
    """Any gRPC client can read reason, violations and next steps without our code."""
    violation = Violation("GATE_NOT_APPROVED", "the gate is open", "ask security")
    details = details_of(NanoclawError(Kind.PRECONDITION, "NOT_READY", "m", violations=[violation], next_step="n", v=7))
    assert (details["ErrorInfo"].reason, details["ErrorInfo"].domain) == ("NOT_READY", "nanoclaw")
    assert dict(details["ErrorInfo"].metadata) == {"v": "7"}
    assert details["PreconditionFailure"].violations[0].type == "GATE_NOT_APPROVED"
    assert [link.description for link in details["Help"].links] == ["n", "ask security"]
    invalid = details_of(NanoclawError(Kind.INVALID, "R", "m", violations=[Violation("C", "d", field="f")]))
    assert invalid["BadRequest"].field_violations[0].field == "f"
    assert "Help" not in invalid


def test_a_hint_is_sent_once():
    """Who prints all links reads each next step one time: the first violation's is the error's own."""
    same = NanoclawError(Kind.INVALID, "R", "m", violations=[Violation("C", "d", "do it", "f")], next_step="do it")
    assert [(link.url, link.description) for link in details_of(same)["Help"].links] == [
        ("urn:nanoclaw:next:0", "do it")
    ]
    assert from_status(to_status(same)).next_step == "do it"
    other = NanoclawError(Kind.INVALID, "R", "m", violations=[Violation("C", "d", "do it", "f")], next_step="or that")
    assert [link.description for link in details_of(other)["Help"].links] == ["or that", "do it"]


def test_a_status_that_is_cut_keeps_the_next_step():
    """Of hundreds of facts nothing fits; what to do next does."""
    many = {f"fact{number}": "x" * 600 for number in range(400)}
    error = from_status(to_status(NanoclawError(Kind.DENIED, "R", "m", next_step="ask an operator", **many)))
    assert (error.reason, error.next_step, error.facts) == ("R", "ask an operator", {})


@pytest.mark.parametrize(("fact", "seconds"), [("2.5", 2.5), (0, 0.0)])
def test_a_retry_after_fact_becomes_a_retry_info(fact, seconds):
    """Who is told when to come back finds it where gRPC clients look."""
    info = details_of(NanoclawError(Kind.EXHAUSTED, "RATE_LIMITED", "m", retry_after_seconds=fact))["RetryInfo"]
    assert info.retry_delay.seconds + info.retry_delay.nanos / 1e9 == seconds


@pytest.mark.parametrize("fact", ["soon", "-1", "nan", "inf", "1e12"])
def test_a_retry_after_that_is_no_time_breaks_nothing(fact):
    """A strange fact stays a fact."""
    assert "RetryInfo" not in details_of(NanoclawError(Kind.EXHAUSTED, "R", "m", retry_after_seconds=fact))


@example(3, "\ud800 half a character", 2)
@given(st.integers(1, 400), st.text(max_size=2000), st.integers(0, 30))
def test_a_status_always_fits_into_trailing_metadata(count, text, facts):
    """However many violations with however long texts, lone surrogates included, the caller gets the error itself."""
    violations = [Violation(f"CODE_{i}", text, text, f"field_{i}") for i in range(count)]
    many = {f"fact{i}": text for i in range(facts)}
    status = to_status(NanoclawError(Kind.PRECONDITION, "MANY", text, violations=violations, **many))
    assert status.ByteSize() <= 5000
    error = from_status(status)
    assert error.reason == "MANY"
    cut = int(error.facts.get("violations_cut", 0))
    assert len(error.violations) + cut == count or not error.facts


async def test_hundreds_of_violations_still_arrive_as_the_same_error(serve, dial, spec, puppet):
    """Too large a status would be dropped by the transport, and the caller left with nothing."""
    violations = [Violation(f"MISSING_{i}", "m" * 200, "n" * 200) for i in range(300)]

    def refuse(_request):
        raise NanoclawError(Kind.PRECONDITION, "ALL_MISSING", "nothing is there", violations=violations)

    puppet.on_get = refuse
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    with pytest.raises(NanoclawError) as caught:
        await stub.GetTask(pb.GetTaskRequest())
    assert caught.value.reason == "ALL_MISSING"
    assert int(caught.value.facts["violations_cut"]) + len(caught.value.violations) == 300


SECRET = "hunter2 at /home/x/db.sqlite"


@pytest.mark.parametrize(
    "raised",
    [
        ValueError(SECRET),
        KeyError(SECRET),
        TimeoutError(SECRET),
        RecursionError(SECRET),
        asyncio.CancelledError(SECRET),
        NanoclawError(Kind.INTERNAL, "WRITER_DEAD", SECRET, path=SECRET, next_step=SECRET),
    ],
    ids=lambda raised: type(raised).__name__,
)
async def test_the_text_of_a_defect_is_logged_and_never_sent(serve, raw, bearer, spec, puppet, log_lines, raised):
    """Callers get an opaque id; the log has the text under the same id."""

    def fail(_request):
        raise raised

    puppet.on_get = fail
    code, error = await raw(await serve(spec), bearer("operator:founder"))
    assert code is grpc.StatusCode.INTERNAL
    assert error.reason == "INTERNAL"
    assert SECRET not in repr((error, error.message, error.violations, error.next_step, dict(error.facts)))
    (line,) = [line for line in log_lines() if line.get("error_id") == error.facts["error_id"]]
    assert SECRET in line["error"] or SECRET in line["exception"]
    assert error.facts["error_id"] in error.message


async def test_a_method_without_an_implementation_is_unimplemented(serve, dial, spec):
    """The stub's base class raises NotImplementedError; that is no defect of the call."""
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    with pytest.raises(NanoclawError) as caught:
        await stub.GetPolicy(pb.GetPolicyRequest())
    assert caught.value.kind is Kind.UNIMPLEMENTED


async def test_a_body_that_is_no_such_message_is_invalid_and_not_echoed(serve, raw, bearer, spec):
    """Parse errors are the caller's, and their text stays here."""
    code, error = await raw(await serve(spec), bearer("operator:founder"), body=b"\xff\xff\xff")
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def test_a_body_is_parsed_only_for_who_may_call(serve, raw, spec):
    """A stranger's bytes never reach the parser."""
    code, error = await raw(await serve(spec), (), body=b"\xff\xff\xff")
    assert (code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "NO_CREDENTIAL")


async def test_a_stream_s_error_is_ours_too(serve, dial, spec, puppet):
    """Watchers learn why, with the same error type."""
    puppet.watch_error = NanoclawError(Kind.PRECONDITION, "CURSOR_INVALID", "beyond the head", head=4)
    stub = stubs.GovernanceServiceStub(dial(await serve(spec)))
    rows = []
    with pytest.raises(NanoclawError) as caught:
        async for row in stub.WatchTasks(pb.WatchTasksRequest()):
            rows.append(row)
    assert len(rows) == 1
    assert (caught.value.reason, caught.value.facts["head"]) == ("CURSOR_INVALID", "4")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.ALREADY_EXISTS, Kind.CONFLICT),
        (grpc.StatusCode.OUT_OF_RANGE, Kind.INVALID),
        (grpc.StatusCode.CANCELLED, Kind.UNAVAILABLE),
        (grpc.StatusCode.UNKNOWN, Kind.INTERNAL),
        (grpc.StatusCode.DATA_LOSS, Kind.INTERNAL),
    ],
)
def test_a_foreign_status_is_told_as_well_as_it_can_be(code, kind):
    """A status that is none of ours still becomes an error with a reason."""
    error = from_status(status_pb2.Status(code=code.value[0], message="m"))
    assert (error.kind, error.reason, error.message) == (kind, code.name, "m")
