"""A program's waterfall as text, at most 120 columns wide.

Each call has a line: what it is, a bar on the program's time, figures; under it, where something was lost, why.
"""

from collections.abc import Iterator, Sequence

from legato.explanation import CacheNote, Drift, ExplainedCall, Explanation

_BAR = 40
_NAME, _AGENT = 16, 12
_INDENT = " " * 4
_LEAST_LOST = 16
"""Tokens, of which less is not worth a line."""
_LEGEND = (
    "p paused  . queued  = prefill  # decode  o else  ~ tool  - client  > runs; * critical path, whose gaps are drawn"
)
_EPSILON = 1e-9


def lines_of(explanation: Explanation) -> list[str]:
    """The whole picture."""
    seconds = max(explanation.seconds, _EPSILON)
    lines = [*_head(explanation), ""]
    lines.append(_row(" ", "CALL", "AGENT", "", "START", "TIME", "QUEUE", "PREFILL", "DECODE", "HIT"))
    for call in explanation.calls:
        lines.append(_call_row(explanation, call, seconds))
        lines += [_INDENT + line for line in _remarks(call)]
    for tool in explanation.tools:
        bar = _draw([(tool.began, tool.began + tool.seconds, "~")], seconds)
        name = f"{tool.tool}{' failed' if tool.failed else ''}"
        lines.append(_row(" ", name, tool.agent, bar, _seconds(tool.began), _seconds(tool.seconds), "", "", "", ""))
    return [*lines, "", _LEGEND]


def _head(explanation: Explanation) -> Iterator[str]:
    num_calls, num_tools = len(explanation.calls) + explanation.num_forgotten, len(explanation.tools)
    state = "ended" if explanation.ended else "lives"
    facts = [f"program {explanation.program_id}", state, _seconds(explanation.seconds), _count(num_calls, "call")]
    facts += [_count(num_tools, "tool run")] if num_tools else []
    facts += [f"workflow {explanation.workflow}"] if explanation.workflow else []
    facts += [f"tenant {explanation.tenant}"] if explanation.tenant else []
    yield _cut(", ".join(facts), 120)
    if explanation.num_forgotten:
        yield f"not kept, because older: {_count(explanation.num_forgotten, 'call')}"
    yield f"critical path: {', '.join(_shares(explanation))}"
    if (eta := explanation.eta) is not None:
        low, high = _seconds(eta.low_seconds), _seconds(eta.high_seconds)
        yield f"expected to be complete in {_seconds(eta.expected_seconds)}, with a chance of 0.8 in {low} to {high}"


def _shares(explanation: Explanation) -> Iterator[str]:
    """Where the time on the critical path went, most first."""
    spent: dict[str, float] = {}
    for call in explanation.calls:
        if not call.critical:
            continue
        parts = [(kind, end - begin) for begin, end, kind in phases(call)]
        gap = explanation.gap(call)
        for kind, seconds in [*parts, ("tools" if gap.tools else "client", gap.seconds)]:
            spent[kind] = spent.get(kind, 0.0) + seconds
    for kind, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        if seconds >= 0.0005:
            yield f"{kind} {_seconds(seconds)}"


def phases(call: ExplainedCall) -> list[tuple[float, float, str]]:
    """Begin and end, from the program's start, of what a call went through: they follow each other and end with it.
    What is in none of its timings (a lost attempt, the way to the client) is `else`."""
    paused = min(call.cache.paused_seconds if call.cache else 0.0, call.timings.queue_seconds)
    queued = call.timings.queue_seconds - paused
    lengths = (paused, queued, call.timings.prefill_seconds, call.timings.decode_seconds)
    found: list[tuple[float, float, str]] = []
    at, end = call.began, call.began + call.seconds
    for kind, seconds in zip(("paused", "queued", "prefill", "decode"), lengths, strict=True):
        until = min(at + seconds, end)
        if until > at:
            found.append((at, until, kind))
            at = until
    return found if end - at < _EPSILON else [*found, (at, end, "else")]


_LETTERS = {"paused": "p", "queued": ".", "prefill": "=", "decode": "#", "else": "o"}


def _call_row(explanation: Explanation, call: ExplainedCall, seconds: float) -> str:
    spans = [(begin, end, _LETTERS[kind]) for begin, end, kind in phases(call)]
    gap = explanation.gap(call)
    if call.critical and gap.seconds > 0:
        spans.insert(0, (gap.began, call.began, "~" if gap.tools else "-"))
    running = call.outcome == "running"
    if running:
        spans.append((call.began, seconds, ">"))
    timings, usage = call.timings, call.usage
    hit = f"{usage.cached_tokens / usage.prompt_tokens:.0%}" if usage.prompt_tokens else ""
    parts = (timings.queue_seconds, timings.prefill_seconds, timings.decode_seconds)
    figures = [""] * 4 if running else [*map(_seconds, (call.seconds, *parts))]
    mark = "*" if call.critical else " "
    agent = call.agent or call.step or call.thread
    return _row(mark, call.call_id, agent, _draw(spans, seconds), _seconds(call.began), *figures, hit)


def _remarks(call: ExplainedCall) -> Iterator[str]:
    if call.error or call.outcome == "aborted":
        yield _cut(f"{call.outcome}: {call.error or 'on request'}", 116)
    if call.timings.restarts:
        yield f"lost its worker and was started again, {_count(call.timings.restarts, 'time')}"
    if call.cache is not None and call.cache.lost_tokens >= _LEAST_LOST:
        yield _cut(_missed(call.cache), 116)
    if call.drift is not None:
        yield _cut(_drifted(call.drift), 116)


def _missed(note: CacheNote) -> str:
    lost = f"miss: {note.lost_tokens:,} tokens that its program had on {note.worker_id}"
    match note.cause:
        case "evicted":
            return f"{lost} were evicted" + (f" when program {note.by_program} came there" if note.by_program else "")
        case "moved":
            return f"{lost} are still there: another worker was chosen"
        case "worker_lost":
            return f"{lost} went with that worker"
        case _:
            return f"{lost} were not found"


def _drifted(drift: Drift) -> str:
    cost = f"{drift.lost_tokens:,} tokens again" + (
        f", {drift.lost_seconds:.2f}s of an engine" if drift.lost_seconds else ""
    )
    if drift.kind == "stripped":
        what = f"message {drift.message}, an output, came back otherwise than it was, or without its reasoning"
    elif drift.role == "tools" and drift.kind == "edited":
        what = f"the tools changed or were reordered since call {drift.call_id}"
    else:
        were = "was inserted" if drift.kind == "inserted" else f"was {drift.kind}"
        what = f"message {drift.message} ({drift.role}) {were} since call {drift.call_id}"
    return f"drift: {what}: {cost}"


def _draw(spans: Sequence[tuple[float, float, str]], seconds: float) -> str:
    """Every span has at least one column, unless a later one takes it."""
    columns = [" "] * _BAR
    for begin, end, letter in spans:
        first = min(_BAR - 1, int(begin / seconds * _BAR))
        last = max(first + 1, min(_BAR, round(end / seconds * _BAR)))
        columns[first:last] = letter * (last - first)
    return "".join(columns)


def _row(mark: str, call: str, agent: str, bar: str, *figures: str) -> str:
    cells = [f"{figure:>8}" if index == 3 else f"{figure:>7}" for index, figure in enumerate(figures)]
    return f"{mark} {_cut(call, _NAME):{_NAME}} {_cut(agent, _AGENT):{_AGENT}} {bar:{_BAR}}{''.join(cells)}".rstrip()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}.."


def _seconds(seconds: float) -> str:
    """To three digits or so, at most six letters."""
    if seconds >= 100_000:
        return f"{seconds / 3600:.0f}h"
    if seconds >= 1000:
        return f"{seconds:.0f}s"
    return f"{seconds:.1f}s" if seconds >= 100 else f"{seconds:.2f}s"
