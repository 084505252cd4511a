"""Program state: values, counters and streams, in Redis or inside the process.

`connect` picks by `section.url`. Both stores pass one conformance suite; the embedded one is shared by all who connect
in this process under the same cluster name, and forgets everything when the last of them is gone.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from services.common.config import StateSection
from services.common.state import embedded, redis_store
from services.common.state.store import KEPT_ENTRIES, ONCE_SECONDS, GroupStatus, Store, StoreUnavailable, order

__all__ = ["KEPT_ENTRIES", "ONCE_SECONDS", "GroupStatus", "Store", "StoreUnavailable", "connect", "order"]


@asynccontextmanager
async def connect(section: StateSection, cluster: str) -> AsyncGenerator[Store]:
    """The cluster's store. Does not wait for Redis to be there: until it is, operations raise StoreUnavailable."""
    if not section.url:
        with embedded.shared(cluster) as store:
            yield store
    else:
        async with redis_store.connect(section, cluster) as store:
            yield store
