"""Forecasts on the wire: laws as equally likely points with the chance that it never comes, and back.

A law that is given as points already travels as it is. Others, and what is left of a law some time after it was said,
are asked for as many points.
"""

from dataclasses import dataclass, replace
from math import isfinite

from legato.v1 import workflow_pb2
from services.common.forecast import Forecast
from services.common.laws import NEVER, Law
from services.common.laws.quantiles import Quantiles

_NUM_POINTS = 16
_FAR = 1e9
"""What has not come by then never does; tokens and seconds alike."""
_NEAR = 1e-4
_HALVINGS = 60
_SURE = 0.999


@dataclass(frozen=True, slots=True)
class Foretold:
    """A CallForecast, as whoever listens to the workflow service takes it."""

    program_id: str
    thread: str
    agent: str
    """Names the thread where it has no name."""
    call_id: str
    """Empty: the thread's next call."""
    forecast: Forecast
    """`returns`: with a call_id from that call's end on, else from now on."""
    revision: int
    """Grows with every forecast; of two of the same call, or of a thread's next one, the greater one counts."""
    valid_seconds: float


def read(message: workflow_pb2.CallForecast) -> Foretold:
    """What came over the wire. What makes no sense in it is taken for unknown."""
    forecast = Forecast(
        output=_law(message.output) if message.HasField("output") else None,
        service=_law(message.service) if message.HasField("service") else None,
        remaining=_law(message.remaining) if message.HasField("remaining") else None,
        returns=_law(message.returns) if message.HasField("returns") else None,
        importance=message.importance if isfinite(message.importance) else 0.0,
        information=message.information if isfinite(message.information) else 0.0,
    )
    valid_seconds = message.valid_seconds if isfinite(message.valid_seconds) else 0.0
    return Foretold(
        *(message.program_id, message.thread, message.agent, message.call_id),
        *(forecast, message.revision, max(valid_seconds, 0.0)),
    )


def write(foretold: Foretold) -> workflow_pb2.CallForecast:
    """As it travels."""
    forecast = foretold.forecast
    message = workflow_pb2.CallForecast(
        program_id=foretold.program_id,
        thread=foretold.thread,
        agent=foretold.agent,
        call_id=foretold.call_id,
        revision=foretold.revision,
        valid_seconds=foretold.valid_seconds,
        importance=forecast.importance,
        information=forecast.information,
    )
    for field, law in (
        (message.output, forecast.output),
        (message.service, forecast.service),
        (message.remaining, forecast.remaining),
        (message.returns, forecast.returns),
    ):
        if law is not None:
            _write(field, law)
    return message


def later(foretold: Foretold, seconds: float) -> Foretold:
    """What a forecast says so long after it was made, if nothing has happened since."""
    forecast, returns = foretold.forecast, foretold.forecast.returns
    if returns is not None and not foretold.call_id:
        points, never = points_of(returns, seconds)
        forecast = replace(forecast, returns=Quantiles(points, never) if points else NEVER)
    return replace(foretold, forecast=forecast, valid_seconds=max(foretold.valid_seconds - seconds, 0.0))


def points_of(law: Law, elapsed: float = 0.0) -> tuple[list[float], float]:
    """Equally likely values, ascending, and the chance that none of them is."""
    never = min(max(1.0 - law.cdf(_FAR, elapsed), 0.0), 1.0)
    if never > _SURE:
        return [], 1.0
    chances = ((number + 0.5) / _NUM_POINTS * (1.0 - never) for number in range(_NUM_POINTS))
    if isinstance(law, Quantiles):
        return [min(law.quantile(chance, elapsed), _FAR) for chance in chances], never
    return [_quantile(law, chance, elapsed) for chance in chances], never


def _quantile(law: Law, chance: float, elapsed: float) -> float:
    """The least time by which the chance is reached, to a relative 1e-9 or so."""
    low, high = 0.0, _NEAR
    while high < _FAR and law.cdf(high, elapsed) < chance:
        low, high = high, 4.0 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if law.cdf(middle, elapsed) < chance:
            low = middle
        else:
            high = middle
    return high


def _write(message: workflow_pb2.Law, law: Law) -> None:
    points, never = (law.points, law.never) if isinstance(law, Quantiles) else points_of(law)
    message.points.extend(points)
    message.never = never


def _law(message: workflow_pb2.Law) -> Law | None:
    if not 0.0 <= message.never <= 1.0:
        return None
    points = sorted(message.points)
    if not points or message.never > _SURE:
        return NEVER if message.never > _SURE else None
    if points[0] < 0.0 or not all(map(isfinite, points)):
        return None
    return Quantiles(points, message.never)
