"""Watches the workflow service: tells the core what is foretold."""

from collections.abc import Sequence

from services.common.forecaster import Forecaster
from services.common.foretold import Foretold
from services.common.registry import Registry
from services.scheduler.events import CallForeseen, ForecasterLost
from services.scheduler.term import Term


async def watch(term: Term, registry: Registry) -> None:
    """Follow what is foretold until cancelled."""

    def take(told: Sequence[Foretold]) -> None:
        for item in told:
            thread = (item.program_id, item.thread, item.call_id)
            term.feed(CallForeseen(*thread, item.forecast, item.revision, item.valid_seconds, item.agent))

    await Forecaster(registry, take, lambda: term.feed(ForecasterLost())).run()
