"""How well an engine suits the call against how loaded it is: HexGen-Flow's dispatch (arXiv 2505.05286).

Read in its simulator: argmax of alpha * t_base / t_e - (1 - alpha) * load_e / load_base, where t_e is the profiled time
of the stage on engine e and a dispatch adds t_e to load_e; alpha is swept from 0 to 0.5 by simulation. Reconstruction:
t_e is the predicted time there without waiting; t_base is what the call takes on an engine for itself; load_e is what
the engine's calls have left; load_base is a full batch of calls of t_base.
"""

from services.scheduler.placement import Placement
from services.scheduler.prospects import Way
from services.scheduler.records import Call


class Policy(Placement):
    """`alpha`: weight of how well it suits."""

    def __init__(self, alpha: float = 0.2) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError("hexgen: need alpha from 0 to 1")
        self._alpha = alpha

    def cost(self, call: Call, way: Way, now: float) -> float:
        outlook = way.outlook
        base_seconds = max(1e-6, call.expected.service_seconds)
        seconds = max(1e-6, way.supply.seconds + way.prefill_seconds + way.decode_seconds)
        load_seconds = sum(max(0.0, placed.expected_end - now) for placed in outlook.worker.placed.values())
        load_seconds += sum(waiting.expected.service_seconds for _, waiting in outlook.line if waiting is not call)
        load = load_seconds / (outlook.max_num_seqs * base_seconds)
        return (1 - self._alpha) * load - self._alpha * base_seconds / seconds
