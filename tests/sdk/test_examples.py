"""The examples run, and do what they say."""

import asyncio
import os
import sys
from pathlib import Path

from legato.v1 import call_pb2, gateway_pb2
from tests.sdk.fake_gateway import FakeGateway, finish

ROOT = Path(__file__).parents[2]


async def test_two_agents_use_a_tool_and_join(address: str, gateway: FakeGateway) -> None:
    def asks_for(country: str) -> list[gateway_pb2.ChatResponse]:
        call = call_pb2.ToolCall(id=f"t-{country}", name="capital", arguments=f'{{"country": "{country}"}}')
        return [gateway_pb2.ChatResponse(tool_calls=[call]), finish(call_pb2.FINISH_REASON_TOOL_CALLS)]

    gateway.answers.extend([asks_for("France"), asks_for("Japan")])
    process = await asyncio.create_subprocess_exec(
        sys.executable, ROOT / "examples/two_agents.py", stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "LEGATO_ADDRESS": address, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    async with asyncio.timeout(20):
        out, _ = await process.communicate()
    assert process.returncode == 0
    opening, *facts, closing = out.decode().splitlines()
    assert (opening, closing) == ("echo: Sum up:", "4 of 7 prompt tokens came from a cache")
    assert sorted(facts) == ["echo: Paris", "echo: Tokyo"]  # either may be asked first
    assert sorted(call.identity.thread for call in gateway.calls) == ["", "1", "1", "2", "2"]
    last_of_each = {call.identity.thread: call.identity.call_id for call in gateway.calls[:4]}
    assert set(gateway.calls[-1].identity.parents) == set(last_of_each.values())
    assert {span.tool for span in gateway.spans} == {"capital"}
    assert all(span.call_id and not span.failed for span in gateway.spans)
