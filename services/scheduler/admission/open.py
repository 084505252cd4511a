"""Every program is let in."""

from math import inf

from services.scheduler.admission import Admission
from services.scheduler.ledger import Ledger
from services.scheduler.records import Call


class Policy(Admission):
    """Without settings."""

    bounded = False

    def room(self, ledger: Ledger) -> float:
        return inf

    def need(self, call: Call, blocks: int) -> float:
        return 0.0
