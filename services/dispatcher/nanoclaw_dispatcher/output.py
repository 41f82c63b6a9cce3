"""What an agent reported at the end of its output, between the markers."""

import re

from nanoclaw_agent.session import OUTPUT_END, parse_result

_SESSION = re.compile(r'"newSessionId"\s*:\s*"([A-Za-z0-9._:-]{1,200})"')
_FIT = re.compile(r"[A-Za-z0-9._:-]{1,200}")


def reported_session(lines: str) -> str:
    """The `newSessionId` of the last result in the last lines of an output; empty for none, or one that is not fit.

    A result that is longer than what is kept has lost its beginning: then the id is taken from what is left of it.
    """
    result = parse_result(lines + "\n")
    if result is not None:
        session = result.get("newSessionId")
        return session if isinstance(session, str) and _FIT.fullmatch(session) else ""
    before, end, _ = lines.rpartition(OUTPUT_END)
    found = _SESSION.findall(before) if end else []
    return str(found[-1]) if found else ""
