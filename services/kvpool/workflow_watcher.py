"""Watches the workflow service: tells the pool when threads are foretold to come back."""

from collections.abc import Sequence

from services.common.forecaster import Forecaster
from services.common.foretold import Foretold
from services.common.registry import Registry
from services.kvpool.events import ThreadForeseen
from services.kvpool.pool import Pool


async def watch(pool: Pool, registry: Registry) -> None:
    """Follow what is foretold until cancelled."""

    def take(told: Sequence[Foretold]) -> None:
        for item in told:
            if (returns := item.forecast.returns) is not None:
                thread = (item.program_id, item.thread or item.agent)
                pool.feed(ThreadForeseen(*thread, returns, item.valid_seconds, running=bool(item.call_id)))

    await Forecaster(registry, take, lambda: None).run()
