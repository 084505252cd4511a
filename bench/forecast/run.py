"""One run: the core reads a set's log, and its forecasts of the last programs are scored."""

import random
import time
from typing import Any

from bench.forecast import sets
from bench.forecast.score import Score
from bench.forecast.truth import QUANTITIES, Truth
from services.workflow.core import Core
from sim.trace import Program


def run(chosen: sets.TraceSet, found: list[Program], seed: int, *, declared: bool) -> dict[str, Any]:
    """Scores by quantity, and what an event cost."""
    log, last = sets.log(found, seed=seed, declared=declared)
    parents = {
        program.program_id: {str(call.id): tuple(map(str, call.parents)) for call in program.calls} for program in found
    }
    core, truth, rng = Core(), Truth(parents), random.Random(f"score/{seed}")
    grids = {"output": 1.0, "remaining": 0.01, "returns": chosen.grid_seconds}
    scores = {name: Score(grids[name]) for name in QUANTITIES if chosen.gaps or name != "returns"}
    seconds = 0.0
    for now, event in log:
        for outcome in truth.before(event, now):
            if (score := scores.get(outcome.quantity)) is None:
                continue
            if outcome.program_id in last:
                score.test(outcome, rng)
            else:
                score.train(outcome)
        began = time.process_time()
        foreseen = core.handle(event, now)
        seconds += time.process_time() - began
        truth.after(foreseen, event, now)
    core.check()
    results = {name: score.result() for name, score in scores.items()}
    return {"seed": seed, "events": len(log), "event_us": 1e6 * seconds / len(log), "quantities": results}
