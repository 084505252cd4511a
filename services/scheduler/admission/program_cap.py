"""A fixed number of programs at each worker, whatever they hold and however long their tools take: the blunt way."""

from services.scheduler.admission import Admission
from services.scheduler.ledger import Ledger
from services.scheduler.records import Call


class Policy(Admission):
    """At most `programs` at a worker. One that runs nothing for `patience_seconds` takes one more."""

    def __init__(self, programs: float = 8, patience_seconds: float = 60.0) -> None:
        if programs < 1 or patience_seconds < 0:
            raise ValueError("program_cap: need programs >= 1, patience_seconds >= 0")
        self._programs = programs
        self.patience_seconds = patience_seconds

    def room(self, ledger: Ledger) -> float:
        return self._programs - len(ledger.programs)

    def need(self, call: Call, blocks: int) -> float:
        return 1.0
