"""Laws of a positive random time: what is believed of when something happens, given that it has not happened yet.

All times are seconds. `elapsed` is how long it has not happened already. A law is immutable and costs microseconds to
ask; it may be shared between whoever forecasts, schedules and retains.
"""

from services.common.laws.combined import (
    NEVER,
    After,
    Maximum,
    Minimum,
    Mixture,
    learned,
    maximum,
    minimum,
    sometimes,
)
from services.common.laws.empirical import Empirical
from services.common.laws.hazard import EDGES, Exposure, Hazard, learned_hazard, life_table, middle
from services.common.laws.intervals import Intervals, Key
from services.common.laws.law import Law
from services.common.laws.quantiles import Quantiles
from services.common.laws.smooth import Exponential, LogNormal, Lomax, Point, Weibull

__all__ = [
    "EDGES",
    "NEVER",
    "After",
    "Empirical",
    "Exponential",
    "Exposure",
    "Hazard",
    "Intervals",
    "Key",
    "Law",
    "LogNormal",
    "Lomax",
    "Maximum",
    "Minimum",
    "Mixture",
    "Point",
    "Quantiles",
    "Weibull",
    "learned",
    "learned_hazard",
    "life_table",
    "maximum",
    "middle",
    "minimum",
    "sometimes",
]
