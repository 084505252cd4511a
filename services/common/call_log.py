"""The call log as it lies in the state store: one stream, whose entries are batches of what happened.

A batch is a ReadLogResponse: what one writer wrote at once. Batches are small, so that a number of them is a bound on
memory; where little happens a batch is one event. Writers of several processes write into one log: its order is that in
which the store took the batches, and the times in it run a little backwards. An event may be in it twice.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from legato.v1 import workflow_pb2

STREAM: Final = "calls"
BATCH_BYTES: Final = 8 * 1024
"""Of a batch, at most, unless it is of one event that is larger."""


def batches(entries: Iterable[workflow_pb2.LogEntry]) -> Iterator[workflow_pb2.ReadLogResponse]:
    """The entries in as many batches as they need."""
    batch, size_bytes = workflow_pb2.ReadLogResponse(), 0
    for entry in entries:
        size = entry.ByteSize()
        if size_bytes and size_bytes + size > BATCH_BYTES:
            yield batch
            batch, size_bytes = workflow_pb2.ReadLogResponse(), 0
        batch.entries.append(entry)
        size_bytes += size
    if size_bytes:
        yield batch
