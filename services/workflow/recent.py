"""Recent: what the log says of the programs that were active last, as it was written, until somebody asks where their
time went. To keep an entry costs a microsecond or two; to explain a program some milliseconds.

Bounded by programs, and by bytes of a program and of all: the program that was silent for longest goes first, of a
program its oldest entries.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from legato.v1 import workflow_pb2
from services.common.laws import Key
from services.workflow.events import CallBegan, Event
from services.workflow.explain import Explainer, Explanation, name_of
from services.workflow.explain_translation import detail_of
from services.workflow.translation import event_of


@dataclass(slots=True, eq=False)
class Kept:
    """Of one program."""

    written: deque[bytes] = field(default_factory=deque[bytes])
    """Entries, in the log's order."""
    size_bytes: int = 0
    kind: Key | None = None
    """Of programs, its own, as far as its calls so far told; None: nobody said."""

    num_forgotten: int = 0
    """Calls whose begin is not among the entries any more."""

    def entries(self) -> Iterator[workflow_pb2.LogEntry]:
        """As they were told."""
        return map(workflow_pb2.LogEntry.FromString, tuple(self.written))

    def completed(self, explanation: Explanation) -> Explanation:
        """What its entries tell, with what was known of it beside them."""
        workflow = name_of(self.kind) if self.kind else explanation.workflow
        return replace(explanation, workflow=workflow, num_forgotten=explanation.num_forgotten + self.num_forgotten)

    def drop(self) -> int:
        """Forget the oldest entry; its size."""
        written = self.written.popleft()
        self.num_forgotten += workflow_pb2.LogEntry.FromString(written).HasField("began")
        self.size_bytes -= len(written)
        return len(written)


class Recent:
    """Fed with the log."""

    def __init__(
        self, max_programs: int = 1_000, max_bytes: int = 256 << 20, max_bytes_per_program: int = 16 << 20
    ) -> None:
        self._max_programs = max_programs
        self._max_bytes = max_bytes
        self._max_bytes_per_program = min(max_bytes_per_program, max_bytes)
        self._programs: OrderedDict[str, Kept] = OrderedDict()
        """The one not heard of longest is the first."""
        self._size_bytes = 0

    def add(self, event: Event, entry: workflow_pb2.LogEntry, kind: Key | None) -> None:
        """The next entry of the log, and what it says happened; `kind`: what is known of its program, if anything."""
        kept = self._programs.get(event.program_id)
        if kept is not None:
            self._programs.move_to_end(event.program_id)
        elif isinstance(event, CallBegan):
            kept = self._programs[event.program_id] = Kept()
        else:
            return
        written = entry.SerializeToString()
        kept.written.append(written)
        kept.size_bytes += len(written)
        self._size_bytes += len(written)
        kept.kind = kind or kept.kind
        while kept.size_bytes > self._max_bytes_per_program:
            self._size_bytes -= kept.drop()
        while self._size_bytes > self._max_bytes or len(self._programs) > self._max_programs:
            _, forgotten = self._programs.popitem(last=False)
            self._size_bytes -= forgotten.size_bytes

    def of(self, program_id: str) -> Kept | None:
        """What is kept of a program."""
        return self._programs.get(program_id)

    def check(self) -> None:
        """Raise AssertionError if something is not as it always is."""
        assert len(self._programs) <= self._max_programs
        assert self._size_bytes == sum(kept.size_bytes for kept in self._programs.values()) <= self._max_bytes
        for kept in self._programs.values():
            assert kept.size_bytes == sum(map(len, kept.written)) <= self._max_bytes_per_program


def tell(explainer: Explainer, entry: workflow_pb2.LogEntry) -> None:
    """Feed an explainer with an entry of the log."""
    if (event := event_of(entry)) is not None:
        explainer.handle(event, entry.at, detail_of(entry))
