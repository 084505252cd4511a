"""Programs that got little engine time in all go first: PLAS (Autellix, arXiv 2502.13965; [R]).

As atlas.py, but what counts is the sum over all finished calls of the program, also of parallel ones. Reconstruction
and differences: see there.
"""

from services.scheduler.ordering import atlas
from services.scheduler.records import Call


class Policy(atlas.Policy):
    """The same settings."""

    name = "plas"

    def served(self, call: Call) -> float:
        return call.program.served_seconds
