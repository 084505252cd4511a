"""Entries of a call log for tests: programs of one family whose calls are alike, and a stream of forecasts."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager

from legato.v1 import call_pb2, workflow_pb2, workflow_pb2_grpc
from services.common import rpc
from services.common.call_log import STREAM, batches
from services.common.state import Store

GAP_SECONDS = 20.0
CALL_SECONDS = 5.0
OUTPUT_TOKENS = 200


def began(program_id: str, call: int, at: float) -> workflow_pb2.LogEntry:
    """A call of the program's one thread."""
    identity = call_pb2.CallIdentity(program_id=program_id, call_id=f"c{call}", agent="coder", workflow="review")
    prompt = 1_000 + 300 * call
    return workflow_pb2.LogEntry(
        at=at, began=workflow_pb2.CallBegan(identity=identity, model="m", prompt_tokens=prompt, max_tokens=1_000)
    )


def ended(program_id: str, call: int, at: float) -> workflow_pb2.LogEntry:
    """Its end."""
    usage = call_pb2.Usage(prompt_tokens=1_000 + 300 * call, completion_tokens=OUTPUT_TOKENS)
    return workflow_pb2.LogEntry(
        at=at,
        ended=workflow_pb2.CallEnded(
            program_id=program_id,
            call_id=f"c{call}",
            reason=call_pb2.FINISH_REASON_STOP,
            usage=usage,
            engine_seconds=CALL_SECONDS,
        ),
    )


def over(program_id: str, at: float) -> workflow_pb2.LogEntry:
    """The program's end."""
    return workflow_pb2.LogEntry(at=at, over=workflow_pb2.ProgramOver(program_id=program_id))


def life(program_id: str, num_calls: int, start: float) -> list[workflow_pb2.LogEntry]:
    """A whole program: calls of CALL_SECONDS with gaps of GAP_SECONDS between them."""
    found: list[workflow_pb2.LogEntry] = []
    for call in range(num_calls):
        at = start + call * (CALL_SECONDS + GAP_SECONDS)
        found += [began(program_id, call, at), ended(program_id, call, at + CALL_SECONDS)]
    return [*found, over(program_id, start + num_calls * (CALL_SECONDS + GAP_SECONDS))]


async def write(store: Store, entries: Iterable[workflow_pb2.LogEntry]) -> None:
    """To the log."""
    await store.append_many(STREAM, [batch.SerializeToString() for batch in batches(entries)])


class Forecasts:
    """A stream of forecasts, one at a time."""

    def __init__(self, stream: "AsyncGenerator[workflow_pb2.WatchForecastsResponse]") -> None:
        self._stream = stream
        self._waiting: list[workflow_pb2.CallForecast] = []

    async def first(self) -> Sequence[workflow_pb2.CallForecast]:
        """What is in force."""
        return (await anext(self._stream)).forecasts

    async def of(self, program_id: str, call_id: str = "") -> workflow_pb2.CallForecast:
        """The next one of that call. AioRpcError when the stream failed."""
        while True:
            for place, forecast in enumerate(self._waiting):
                if (forecast.program_id, forecast.call_id) == (program_id, call_id):
                    del self._waiting[: place + 1]
                    return forecast
            self._waiting = list((await anext(self._stream)).forecasts)


@asynccontextmanager
async def forecasts(address: str) -> AsyncGenerator[Forecasts]:
    """Those of the service there."""
    async with rpc.channel(address) as channel:
        stream = workflow_pb2_grpc.WorkflowServiceStub(channel).WatchForecasts(workflow_pb2.WatchForecastsRequest())
        try:
            yield Forecasts(aiter(stream))  # pyright: ignore[reportArgumentType]: grpc types it as an iterator
        finally:
            stream.cancel()
