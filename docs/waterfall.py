"""Draws one trace of Jaeger's query API as an SVG: `python docs/waterfall.py TRACE_ID > trace.svg`.

The picture of the README is made with it. --query names the API, http://127.0.0.1:16686 where it is not given.
"""

import argparse
import json
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

COLOURS = {
    "governance": "#0e7490",
    "dispatcher": "#15803d",
    "gateway": "#b45309",
    "broker": "#a21caf",
    "agent": "#1d4ed8",
}
ROW, NAMES, BARS, EDGE = 19, 430, 520, 90


def fetch(query: str, trace_id: str) -> dict[str, Any]:
    """The trace as Jaeger answers it."""
    try:
        with urllib.request.urlopen(f"{query}/api/traces/{trace_id}", timeout=10) as answer:  # noqa: S310 - loopback
            found: dict[str, Any] = json.load(answer)["data"][0]
    except (OSError, IndexError) as error:
        sys.exit(f"no trace {trace_id} at {query} ({error}): is Jaeger there, and is that the id that the demo named?")
    return found


def in_order(spans: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each span with its depth: children under their parents, by their start."""
    known = {span["spanID"] for span in spans}
    children = defaultdict(list)
    for span in sorted(spans, key=lambda span: span["startTime"]):
        parents = [ref["spanID"] for ref in span["references"] if ref["refType"] == "CHILD_OF"]
        children[parents[0] if parents and parents[0] in known else ""].append(span)
    waiting = [(0, span) for span in reversed(children[""])]
    while waiting:
        depth, span = waiting.pop()
        yield depth, span
        waiting += [(depth + 1, child) for child in reversed(children[span["spanID"]])]


def draw(trace: Mapping[str, Any]) -> str:
    """The SVG: a row a span, its service's colour, from its start to its end; on hover, its attributes."""
    spans = trace["spans"]
    services = {key: each["serviceName"].removeprefix("nanoclaw-") for key, each in trace["processes"].items()}
    begin = min(span["startTime"] for span in spans)
    length = max(max(span["startTime"] + span["duration"] for span in spans) - begin, 1)
    width, height = NAMES + BARS + EDGE, ROW * (len(spans) + 2) + 30
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="ui-monospace, monospace"'
        ' font-size="11">',
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>',
    ]
    for number, name in enumerate(COLOURS):
        out.append(
            f'<rect x="{12 + number * 110}" y="12" width="10" height="10" rx="2" fill="{COLOURS[name]}"/>'
            f'<text x="{27 + number * 110}" y="21" fill="#334155">{name}</text>'
        )
    for part in range(5):
        x = NAMES + BARS * part / 4
        out.append(
            f'<line x1="{x:.0f}" x2="{x:.0f}" y1="40" y2="{height - 8}" stroke="#e2e8f0"/>'
            f'<text x="{x + 3:.0f}" y="38" fill="#64748b">{length * part / 4000:.0f} ms</text>'
        )
    for number, (depth, span) in enumerate(in_order(spans)):
        service = services[span["processID"]]
        out.append(_row(ROW * number + 46, depth, span, service, (span["startTime"] - begin) / length, length))
    return "\n".join([*out, "</svg>\n"])


def _row(y: int, depth: int, span: Mapping[str, Any], service: str, start: float, length: int) -> str:
    tags = {tag["key"]: tag["value"] for tag in span["tags"]}
    name = span["operationName"].removeprefix(f"nanoclaw.{service}.v1.")
    said = _said(name, {key.removeprefix("nanoclaw."): str(value) for key, value in tags.items()})
    hover = "\n".join([f"{service} {span['operationName']}", *(f"{key} = {tags[key]}" for key in sorted(tags))])
    x, bar = NAMES + BARS * start, max(BARS * span["duration"] / length, 1.5)
    fill = "#dc2626" if tags.get("error") else COLOURS.get(service, "#475569")
    return (
        f"<g><title>{escape(hover)}</title>"
        f'<text x="{12 + depth * 14}" y="{y + 10}" fill="#0f172a">{escape(name)}'
        f'<tspan dx="8" fill="#64748b">{escape(said)}</tspan></text>'
        f'<rect x="{x:.1f}" y="{y + 2}" width="{bar:.1f}" height="10" rx="2" fill="{fill}"/>'
        f'<text x="{x + bar + 4:.1f}" y="{y + 10}" fill="#64748b" font-size="9">{span["duration"] / 1000:.1f} ms</text>'
        "</g>"
    )


def _said(name: str, tags: Mapping[str, str]) -> str:
    """What stands behind the name of a span: who moved what where, and by which decision."""
    moved = f"{tags['from']} → {tags['to']}" if "from" in tags and "to" in tags else ""
    no = f"denied: {tags.get('reason', '')}" if tags.get("decision") == "deny" else ""
    if name.startswith("task."):
        by = f"as {tags['relation'].replace('_', ' ')}" if "decision" in tags and "relation" in tags else ""
        return " ".join(filter(None, [moved, no or by]))
    if name == "broker.call":
        return f"{tags.get('provider')} {tags.get('action')} {no or 'allowed'}"
    if name == "dispatch.attempt":
        repeats = f", again after {tags['reason']}" if "retry_of" in tags else ""
        return f"{tags.get('group')}{repeats}"
    return ""


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("trace_id")
    options.add_argument("--query", default="http://127.0.0.1:16686")
    given = options.parse_args()
    sys.stdout.write(draw(fetch(given.query, given.trace_id)))
