"""The call log's word on how calls ended, beside the clients'.

A call must have ended well in the log, once. Two things are counted apart. A client that lost its gateway, or took it
for lost, asks another one, and the first may come to the end as well: such a call may have as many ends as it has
beginnings. And a gateway writes the log behind its calls (services/gateway/call_log.py): what it had not written when
it was killed is lost, and while the state store is away that is all since then.

A client that has its answer and asks again under its key is to get what was kept: the call does not begin again, unless
something had befallen a gateway, the state store or the way to them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.chaos import layout
from bench.chaos.conductor import Injected
from bench.chaos.record import Ended, OnceMore
from legato.v1 import call_pb2, workflow_pb2

_BUFFERED_SECONDS = 1.0
"""How far behind its calls the log may be on a busy machine, everything being there."""
_CATCHING_UP_SECONDS = 10.0
"""After a fault, until all that had to wait is written."""
_KEEPERS = ("gateway", "redis")
"""Whom it takes, and the way between them, to keep an answer and to give it again. Clients ask again at once, and their
answers are small: none has lapsed or was too large to keep."""
_OTHERS = frozenset(service.name for service in layout.SERVICES if service.kind not in _KEEPERS)
_ON_THE_WAY = ("slow_link", "partition")
"""What a gateway said before it was killed reaches its clients when these are over."""
_GOOD = (call_pb2.FINISH_REASON_STOP, call_pb2.FINISH_REASON_LENGTH, call_pb2.FINISH_REASON_TOOL_CALLS)


@dataclass(frozen=True, slots=True)
class Ends:
    """Of the calls whose end a client saw, how often they ended well in the log."""

    once: int
    at_each_gateway: int
    """More often, but no more often than they began."""
    lost_with_gateway: int
    missing: list[str]
    twice: list[str]
    anew: list[str]
    """Began again when they were asked again, though the answer could be kept."""


def compare(
    calls: Iterable[Ended],
    once_more: Iterable[OnceMore],
    entries: Iterable[workflow_pb2.LogEntry],
    faults: Sequence[Injected],
) -> Ends:
    """`once_more`: which of the calls were asked again. `entries`: the whole log; an entry that is in it twice counts
    once."""
    begins, ends = _counts(entries)
    start_at = faults[0].began - faults[0].planned.at if faults else 0.0
    once, excused, elsewhere = 0, 0, 0
    missing: list[str] = []
    twice: list[str] = []
    for call in calls:
        key, name = (call.program_id, call.call_id), f"{call.program_id}/{call.call_id} ({call.door})"
        count = ends[key]
        if count == 1:
            once += 1
        elif 1 < count <= begins[key]:
            elsewhere += 1
        elif count > 1:
            twice.append(name)
        elif any(_took_along(call, fault, faults) for fault in faults):
            excused += 1
        else:
            missing.append(f"{name}, {call.ended - start_at:.1f} s")
    anew = [
        f"{again.program_id}/{again.call_id}, {again.asked - start_at:.1f} s"
        for again in once_more
        if begins[again.program_id, again.call_id] > again.num_tries
        and not any(_kept_from(again, fault) for fault in faults)
    ]
    return Ends(once, elsewhere, excused, missing, twice, anew)


def _counts(entries: Iterable[workflow_pb2.LogEntry]) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """How often each call began, and how often it ended well."""
    begins: set[tuple[str, str, float]] = set()
    ends: set[tuple[str, str, float]] = set()
    for entry in entries:
        if entry.HasField("began"):
            identity = entry.began.identity
            begins.add((identity.program_id, identity.call_id, entry.at))
        elif entry.HasField("ended") and entry.ended.reason in _GOOD:
            ends.add((entry.ended.program_id, entry.ended.call_id, entry.at))
    return Counter(key[:2] for key in begins), Counter(key[:2] for key in ends)


def _kept_from(again: OnceMore, fault: Injected) -> bool:
    """Whether it may have kept an answer from being kept, or from being given again."""
    if all(target in _OTHERS for target in fault.planned.targets):
        return False
    return fault.began <= again.ended and again.asked <= fault.ended + _CATCHING_UP_SECONDS


def _took_along(call: Ended, fault: Injected, faults: Sequence[Injected]) -> bool:
    """Whether it killed a gateway that may still have had the call's end to write."""
    if fault.planned.kind != "kill" or not fault.planned.fault.target.startswith("gateway"):
        return False
    since = until = fault.began
    node = layout.service(fault.planned.fault.target).node
    for other in faults:
        # Whatever kept the log from being written, or the gateway from writing it, until the kill.
        if other is not fault and other.began < fault.began < other.ended + _CATCHING_UP_SECONDS:
            since = min(since, other.began)
            if other.planned.kind in _ON_THE_WAY and other.planned.fault.target == node:
                until = max(until, other.ended)
    return since - _BUFFERED_SECONDS <= call.ended <= until + _BUFFERED_SECONDS
