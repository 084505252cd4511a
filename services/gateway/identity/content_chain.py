"""Recognises programs by what their calls say, where nobody names them. Pure: no I/O, no clock, no random.

What an engine generated is the evidence. A prompt goes on from a call if it begins with that call's prompt and then its
output: it belongs to its program, and to its thread unless another prompt went on from there before (a fork). Else a
prompt that holds, as one of its messages, an output of at least `least_tokens` of one program alone belongs to that
program (a join, a delegated task, a history that was cut). That prompts begin alike is no evidence: programs share
system prompts, tools, examples and even tasks. Neither system prompts nor tools count, so that a clock in one breaks
nothing.

Confidence is high where only one program can be meant and its output stands where it was given. It is low on joins;
where several programs said the same so far and the newest that was not gone on from is taken; and where an output comes
back changed behind its prompt. Where several programs said the same and each was gone on from, none is taken.

Of a prompt that is plain text its lines are the messages, and an output goes on in the last one.

Messages are hashes (content.py). What is remembered is bounded and kept by tenant; of a program that was forgotten the
next call is a new program's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Final, NamedTuple

from services.gateway.identity.memory import TenantMemory

LEAST_TOKENS: Final = 16
"""Of a text that nobody else says by chance."""
_MOST_ALIKE: Final = 256
"""Calls that said the same so far and are told apart."""
_NO_EVIDENCE: Final = "ts"


class Place(NamedTuple):
    """Where a prompt belongs."""

    program_id: str
    thread: str
    sure: bool
    """High confidence."""


class Path(NamedTuple):
    """A prompt as a chain."""

    ends: Sequence[int]
    """Behind each message that counts: a hash of all up to there."""
    roles: str
    """Of these messages."""
    frame: int
    """A hash of the messages that do not count."""
    long: Sequence[tuple[int, str]]
    """Hashes and roles of those messages that count and are long enough to be told again."""
    open_line: str | None = None
    """The last line of a prompt that is plain text."""


@dataclass(eq=False, slots=True)
class _Point:
    """The end of a prompt, or of the output that was given for it."""

    program_id: str
    thread: str
    frame: int
    evident: bool
    """Up to here there is an output of this program."""
    answered: bool = False
    """A prompt's: an output was given for it."""
    heir: int = 0
    """The prompt that went on from here first; 0: none yet."""
    origin: "_Point | None" = None
    """An output's: its prompt's. One prompt may have several outputs."""

    def leads_to(self, prompt: int) -> bool:
        """No other prompt went on from here before."""
        return self.heir in (0, prompt) and (self.origin is None or self.origin.leads_to(prompt))


@dataclass(frozen=True, slots=True)
class Opened:
    """A call that runs."""

    tenant: str
    point: _Point
    prompt: int


def path_of(hashes: Sequence[int], tokens: Sequence[int], roles: str) -> Path:
    """Of a prompt's messages, as Contents has them."""
    ends: list[int] = []
    counted: list[str] = []
    long: list[tuple[int, str]] = []
    reached = frame = 0
    for hashed, length, role in zip(hashes, tokens, roles, strict=True):
        if role in _NO_EVIDENCE:
            frame = hash((frame, hashed))
            continue
        reached = _link(reached, hashed)
        ends.append(reached)
        counted.append(role)
        if length >= LEAST_TOKENS:
            long.append((hashed, role))
    return Path(ends, "".join(counted), frame, long)


def path_of_lines(hashes: Sequence[int], open_line: str) -> Path:
    """Of a prompt that is plain text: hashes of all of its lines, and the last one."""
    ends = list(accumulate(hashes, _link, initial=0))[1:]
    return Path(ends, "u" * len(ends), 0, (), open_line)


def end_of(begin: int, hashes: Iterable[int]) -> int:
    """Behind these messages, from that end on; 0: from the beginning."""
    return reduce(_link, hashes, begin)


class ContentChain:
    """`place` calls that nobody names, `begin` every call, `end` each of its outputs.

    At most `most_points` are remembered, of some 300 bytes each; a call takes three.
    """

    def __init__(self, most_points: int = 196_608) -> None:
        self._points: TenantMemory[list[_Point]] = TenantMemory(most_points * 2 // 3)
        self._told: TenantMemory[str] = TenantMemory(most_points // 3)
        """By what was said: the program that did; empty: several."""

    def __len__(self) -> int:
        return len(self._points) + len(self._told)

    def place(self, tenant: str, path: Path) -> Place | None:
        """Where a call belongs; None: nowhere that is known."""
        if not path.ends:
            return None
        prompt = path.ends[-1]
        for end in reversed(path.ends[:-1]):  # that all was said before is no sign that it is said again
            if alike := [point for point in self._points.get(tenant, end) or () if point.evident]:
                found = _likeliest(alike, path.frame, prompt)
                if not found:
                    break
                thread = found[-1].thread if found[-1].leads_to(prompt) else _thread(prompt)
                return Place(found[-1].program_id, thread, len({point.program_id for point in found}) == 1)
        if program_id := self._told_by(tenant, path):
            return Place(program_id, _thread(prompt), sure=False)
        return self._changed(tenant, path)

    def begin(self, tenant: str, path: Path, program_id: str, thread: str, *, placed: bool) -> Opened:
        """A call came. `placed`: it belongs to its program because of what it says."""
        prompt = path.ends[-1] if path.ends else 0
        evident = self._inherit(tenant, path, program_id, thread) or placed
        opened = Opened(tenant, _Point(program_id, thread, path.frame, evident), prompt)
        if prompt:
            self._keep(tenant, prompt, opened.point)
        return opened

    def end(self, opened: Opened, ends: Iterable[int], output: int, tokens: int, handed_on: Sequence[int] = ()) -> None:
        """It gave an output of so many tokens (its hash). `ends`: behind it, as later prompts may begin.

        `handed_on`: long texts in it that another agent may be told as its task, such as tools' arguments.
        """
        tenant, point = opened.tenant, opened.point
        if opened.prompt:
            point.answered = True
            for end in ends:
                output_point = _Point(point.program_id, point.thread, point.frame, True, origin=point)
                self._keep(tenant, end, output_point)
        if tokens >= LEAST_TOKENS:
            self._tell(tenant, output, point.program_id)
        for text in handed_on:
            self._tell(tenant, (text, "u"), point.program_id)

    def _inherit(self, tenant: str, path: Path, program_id: str, thread: str) -> bool:
        """Go on from the thread's earlier points. Whether there is an output of the program among them."""
        evident = False
        for end in reversed(path.ends[:-1]):
            points = [point for point in self._points.get(tenant, end) or () if point.program_id == program_id]
            evident = evident or any(point.evident for point in points)
            if any(point.heir for point in points):
                break  # what lies before was gone on from, too
            for point in points:
                if point.thread == thread:
                    point.heir = path.ends[-1]
        return evident

    def _told_by(self, tenant: str, path: Path) -> str:
        """The one program of which the prompt holds something that it said; empty: none, or several."""
        keys = [key for hashed, role in path.long for key in (hashed, (hashed, role))]
        found = {program_id for key in keys if (program_id := self._told.get(tenant, key))}
        return found.pop() if len(found) == 1 else ""

    def _changed(self, tenant: str, path: Path) -> Place | None:
        """The first call of a program, if the prompt goes on from it with another output than it gave."""
        answer = path.roles.rfind("a")
        if answer < 1:
            return None
        points = self._points.get(tenant, path.ends[answer - 1]) or ()
        waiting = [point for point in points if point.answered and not point.heir]
        return Place(waiting[0].program_id, waiting[0].thread, sure=False) if len(waiting) == 1 else None

    def _keep(self, tenant: str, end: int, point: _Point) -> None:
        alike = self._points.get(tenant, end) or []
        alike.append(point)
        del alike[:-_MOST_ALIKE]
        self._points.put(tenant, end, alike, len(alike))

    def _tell(self, tenant: str, text: int | tuple[int, str], program_id: str) -> None:
        known = self._told.get(tenant, text)
        self._told.put(tenant, text, program_id if known in (None, program_id) else "")


def _link(end: int, hashed: int) -> int:
    return hash((end, hashed))


def _likeliest(alike: Sequence[_Point], frame: int, prompt: int) -> Sequence[_Point]:
    """Those that nobody went on from, best with the same frame; else that which this very prompt went on from.

    Else all, if they are one program's. The last one is the newest.
    """
    waiting = [point for point in alike if not point.heir]
    same_frame = [point for point in waiting if point.frame == frame]
    again = [point for point in alike if point.heir == prompt]
    one = len({point.program_id for point in alike}) == 1
    return same_frame or waiting or again or (alike if one else ())


def _thread(prompt: int) -> str:
    """A name for the thread that begins with this prompt."""
    return f"~{prompt & 0xFFFF_FFFF:08x}"
