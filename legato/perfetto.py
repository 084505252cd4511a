"""Waterfalls as a trace that ui.perfetto.dev and chrome://tracing open: Chrome's trace event format, as JSON.

A process per program. In it a track per thread of calls, more where calls of a thread overlap, so that slices on a
track nest; a call's slice holds those of its phases, and before it stands the gap that it waited through. Tools that
were reported have tracks of their own. Times are microseconds from the first program's start.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from legato.explanation import ExplainedCall, Explanation
from legato.waterfall import phases

Event: TypeAlias = dict[str, Any]

_BLUR = 2
"""Microseconds: Unix times as doubles are not finer."""


def trace_of(explanations: Sequence[Explanation]) -> dict[str, Any]:
    """To be written as JSON."""
    origin = min((explanation.started for explanation in explanations), default=None)
    events: list[Event] = []
    for pid, explanation in enumerate(explanations, 1):
        assert origin is not None
        events += _Process(pid, explanation, origin).events()
    return {"displayTimeUnit": "ms", "traceEvents": events}


class _Process:
    """One program."""

    def __init__(self, pid: int, explanation: Explanation, origin: datetime) -> None:
        self._pid = pid
        self._explanation = explanation
        self._offset = (explanation.started - origin).total_seconds()
        self._tracks: dict[str, list[tuple[int, int]]] = {}
        """By name: number, and until when it is taken."""
        self._num_tracks = 0

    def events(self) -> list[Event]:
        explanation = self._explanation
        slices: list[Event] = []
        for call in sorted(explanation.calls, key=lambda call: call.began - call.gap_seconds):
            slices += self._call(call)
        for tool in sorted(explanation.tools, key=lambda tool: tool.began):
            track = self._track("tools", tool.began, tool.began + tool.seconds)
            arguments = {"agent": tool.agent, "call": tool.call_id, "failed": tool.failed}
            slices.append(self._slice(track, tool.tool, "tool", tool.began, tool.began + tool.seconds, arguments))
        return [*self._names(), *slices]

    def _call(self, call: ExplainedCall) -> Iterator[Event]:
        gap = self._explanation.gap(call)
        end = call.began + call.seconds if call.outcome != "running" else max(call.began, self._explanation.seconds)
        track = self._track(call.thread or "calls", gap.began, end)
        if gap.seconds > 0:
            name = f"tool: {', '.join(gap.tools)}" if gap.tools else "client"
            category = "tool" if gap.tools else "client"
            yield self._slice(track, name, category, gap.began, call.began, {"critical": call.critical})
        yield self._slice(track, call.agent or call.call_id, "call", call.began, end, _arguments(call))
        for begin, until, kind in phases(call):
            yield self._slice(track, kind, "phase", begin, until, {})

    def _track(self, name: str, begin: float, end: float) -> tuple[int, int]:
        """One of that name that is free then, and from when on."""
        first, last = self._micros(begin), self._micros(end)
        tracks = self._tracks.setdefault(name, [])
        for index, (tid, taken) in enumerate(tracks):
            if taken <= first + _BLUR:
                tracks[index] = (tid, max(taken, last))
                return tid, max(taken, first)
        self._num_tracks += 1
        tracks.append((self._num_tracks, last))
        return self._num_tracks, first

    def _slice(
        self, track: tuple[int, int], name: str, category: str, begin: float, end: float, arguments: dict[str, Any]
    ) -> Event:
        """All ends are rounded alike, so that what nests or touches in seconds does in microseconds."""
        tid, free = track
        first, last = (max(free, self._micros(seconds)) for seconds in (begin, end))
        where = {"pid": self._pid, "tid": tid, "ts": first, "dur": last - first}
        return {"ph": "X", "name": name, "cat": category, **where, "args": arguments}

    def _names(self) -> Iterator[Event]:
        yield self._name("process_name", 0, f"program {self._explanation.program_id}")
        for name, tracks in self._tracks.items():
            for tid, _ in tracks:
                yield self._name("thread_name", tid, name)

    def _name(self, kind: str, tid: int, name: str) -> Event:
        return {"ph": "M", "name": kind, "pid": self._pid, "tid": tid, "ts": 0, "args": {"name": name}}

    def _micros(self, seconds: float) -> int:
        return round((self._offset + seconds) * 1e6)


def _arguments(call: ExplainedCall) -> dict[str, Any]:
    usage, cache, drift = call.usage, call.cache, call.drift
    arguments: dict[str, Any] = {
        "call": call.call_id,
        "step": call.step,
        "outcome": call.outcome,
        "error": call.error,
        "worker": call.worker_id,
        "critical": call.critical,
        "parents": list(call.parents),
        "tools": list(call.tools),
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
    }
    if cache is not None and cache.lost_tokens:
        arguments |= {"lost_tokens": cache.lost_tokens, "lost": cache.cause, "by_program": cache.by_program}
    if drift is not None:
        arguments |= {
            "drift": f"{drift.kind} {drift.role} at message {drift.message}",
            "drift_tokens": drift.lost_tokens,
        }
    return {key: value for key, value in arguments.items() if value not in ("", [], False)}
