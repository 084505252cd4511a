"""Forecasts on the wire."""

from math import inf, nan

import pytest

from legato.v1 import workflow_pb2
from services.common import foretold
from services.common.forecast import NO_FORECAST


@pytest.mark.parametrize("points", [[1.0, nan, 2.0], [nan], [-1.0, 2.0], [1.0, inf], []])
def test_a_law_that_makes_no_sense_is_not_known(points: list[float]) -> None:
    law = workflow_pb2.Law(points=points)
    message = workflow_pb2.CallForecast(program_id="p", output=law, service=law, remaining=law, returns=law)
    assert foretold.read(message).forecast == NO_FORECAST
