"""Who calls, and whether they may: the two innermost concerns."""

from typing import TYPE_CHECKING, Any

from nanoclaw_core.errors import Kind, NanoclawError, unauthenticated
from nanoclaw_core.ids import check_group, check_name
from nanoclaw_core.principal import Caller
from nanoclaw_rpc.access import Access, classes
from nanoclaw_rpc.call import Call, Proceed
from nanoclaw_rpc.concerns import Concern, Method
from nanoclaw_rpc.credentials import Credentials

if TYPE_CHECKING:  # its library is loaded where TLS is on
    from nanoclaw_rpc.peers import Peers


def identify(credentials: Credentials, peers: "Peers | None" = None) -> Concern:
    """The caller's name, from a verified credential; a group's from the gateway that attests it.

    peers: of a server that listens with TLS.
    """

    def wrap(proceed: Proceed) -> Proceed:
        async def identified(request: Any, call: Call) -> Any:
            certified = peers.principal(call.context) if peers is not None else ""
            call.caller = caller_of(call.metadata, credentials, certified)
            return await proceed(request, call)

        return identified

    return wrap


def caller_of(metadata: Any, credentials: Credentials, certified: str = "") -> Caller:
    """The caller that certificate and metadata prove. Raises UNAUTHENTICATED, with a reason.

    certified: the principal of the connection's certificate, empty for a connection without one. A token is needed
    only there; one sent beside a certificate must be of the same principal.
    """
    authorization = group = attempt = None
    for key, value in metadata:
        if key == "authorization":
            if authorization is not None:
                raise unauthenticated("AMBIGUOUS_CREDENTIAL", "more than one authorization header", _BEARER)
            authorization = value
        elif key == "nanoclaw-group":
            if group is not None:
                raise unauthenticated("AMBIGUOUS_ATTESTATION", "more than one nanoclaw-group header", _ATTESTED)
            group = value
        elif key == "nanoclaw-attempt":
            if attempt is not None:
                raise unauthenticated("AMBIGUOUS_ATTESTATION", "more than one nanoclaw-attempt header", _ATTESTED)
            attempt = value
    if authorization is None:
        if not certified:
            raise unauthenticated("NO_CREDENTIAL", "no authorization header", _BEARER)
        caller = credentials.find(certified)
        if caller is None:
            raise unauthenticated(
                "UNKNOWN_PRINCIPAL", f"{certified} has a certificate, but is not known here", _ADD_OPERATOR
            )
    else:
        caller = _bearer(authorization, credentials)
        if certified and caller.principal != certified:
            raise unauthenticated(
                "CREDENTIAL_MISMATCH",
                f"the certificate is of {certified}, the token of {caller.principal}",
                "send the token of the certificate's owner, or none",
            )
    if group is None and attempt is None:
        return caller
    if not caller.is_service("gateway"):
        raise unauthenticated("FOREIGN_ATTESTATION", f"{caller.principal} cannot speak for a group", _ATTESTED)
    if group is None:
        raise unauthenticated("MALFORMED_ATTESTATION", "an attempt without a group", _ATTESTED)
    try:
        principal = f"group:{check_group('nanoclaw-group', group)}"
        return Caller(
            principal, via=caller.principal, attempt=check_name("nanoclaw-attempt", attempt) if attempt else ""
        )
    except NanoclawError as error:
        raise unauthenticated("MALFORMED_ATTESTATION", error.message, _ATTESTED) from None


def _bearer(authorization: Any, credentials: Credentials) -> Caller:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise unauthenticated("MALFORMED_CREDENTIAL", "the authorization header is not a bearer token", _BEARER)
    caller = credentials.identify(token)
    if caller is None:
        raise unauthenticated("UNKNOWN_CREDENTIAL", "nobody has this token", _BEARER)
    return caller


def authorize(method: Method, access: frozenset[Access]) -> Concern:
    """Lets those pass that the access table lists for the method."""

    def wrap(proceed: Proceed) -> Proceed:
        async def authorized(request: Any, call: Call) -> Any:
            caller = call.caller
            if caller is None or access.isdisjoint(classes(caller)):
                whom = ", ".join(sorted(one.value for one in access)) or "nobody"
                raise NanoclawError(
                    Kind.DENIED,
                    "NOT_PERMITTED",
                    f"{caller.principal if caller else 'nobody'} may not call {method.name}",
                    next_step=f"ask one of those it is open to: {whom}",
                )
            return await proceed(request, call)

        return authorized

    return wrap


_ADD_OPERATOR = "make the operator with `nanoclaw operator add`"
_BEARER = (
    "send one header `authorization: Bearer TOKEN`; the first operator's token is in secrets/operators/founder.token of"
    " NANOCLAW_HOME, and `nanoclaw operator add` makes one for each other"
)
_ATTESTED = "leave nanoclaw-group and nanoclaw-attempt out: the gateway alone sends them, for the files of a group"
