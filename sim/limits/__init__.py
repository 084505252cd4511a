"""What no policy can beat: lower limits of completion times, and the rate at which a cluster is just busy.

Everything follows from what programs ask for at least (`demand`), from what a second of an engine can give at most
(`prices`) and from when calls can run at the earliest (`paths`). Limits hold for any scheduler, also one that knows the
future and starts, stops and moves calls for nothing; so none can be reached exactly. The formulas are those of the
relaxations named in each module, put together here.

- `Paths`: critical path of a program.
- `makespan`, `mean_jct`: of a set of programs with arrivals.
- `saturation`: programs a second. Load is the rate of arrivals over it.
- `sim.limits.ttl`: what keeping a context for a time costs over knowing when it is used next.
- What an eviction order costs over the best has its own linear program: `bench/retention/limit.py`.
"""

from sim.limits.bounds import Bound, makespan, mean_jct
from sim.limits.capacity import Capacity
from sim.limits.demand import CallDemand, Demand, Piece, demands
from sim.limits.paths import Paths
from sim.limits.prices import Prices, best_prices
from sim.limits.saturation import Saturation, saturation

__all__ = [
    "Bound",
    "CallDemand",
    "Capacity",
    "Demand",
    "Paths",
    "Piece",
    "Prices",
    "Saturation",
    "best_prices",
    "demands",
    "makespan",
    "mean_jct",
    "saturation",
]
