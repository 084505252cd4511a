"""What the clients of a run saw: the calls' ends, the silences of streams, and what had to be asked again."""

from collections import Counter
from dataclasses import dataclass, field

LEAST_SILENCE_SECONDS = 0.25
"""A shorter pause in a stream is none: engines report every 0.1 s."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A stream that had begun and for a while said nothing. Times are the event loop's."""

    began: float
    ended: float
    door: str

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class Ended:
    """A call whose end its client saw."""

    program_id: str
    call_id: str
    door: str
    began: float
    ended: float
    num_restarts: int
    """Workers that it lost, as the cluster says."""


@dataclass(frozen=True, slots=True)
class OnceMore:
    """A call that its client asked again though it had all of the answer."""

    program_id: str
    call_id: str
    num_tries: int
    """Before it had the answer: so often the call may have begun."""
    asked: float
    ended: float
    """When it had, or gave up, the second answer."""


@dataclass(slots=True)
class Record:
    """Of one run."""

    num_programs: int = 0
    """Begun."""
    num_completed: int = 0
    num_unended: int = 0
    """That no client told the cluster the end of."""
    calls: list[Ended] = field(default_factory=list[Ended])
    once_more: list[OnceMore] = field(default_factory=list[OnceMore])
    silences: list[Silence] = field(default_factory=list[Silence])
    repeats: list[tuple[float, str, str]] = field(default_factory=list[tuple[float, str, str]])
    """When a client had to ask again, through which door and why."""
    wrong: list[str] = field(default_factory=list[str])
    """Outputs with a gap, a duplicate or anything else that does not belong."""
    misended: list[str] = field(default_factory=list[str])
    """Streams that went on behind their end, and calls that had another answer when they were asked again."""
    failed: list[str] = field(default_factory=list[str])
    """Programs that did not complete, and why."""

    def counts(self) -> dict[str, int]:
        """Of what was asked again, by door and reason."""
        return dict(Counter(f"{door}: {why}" for _, door, why in self.repeats).most_common())


class Listening:
    """To one stream."""

    def __init__(self, record: Record, door: str) -> None:
        self._record = record
        self._door = door
        self._last: float | None = None

    def heard(self, now: float) -> None:
        """Something came."""
        if self._last is not None and now - self._last >= LEAST_SILENCE_SECONDS:
            self._record.silences.append(Silence(self._last, now, self._door))
        self._last = now
