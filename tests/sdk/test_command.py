"""The `legato` command, as a process of its own."""

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from legato.v1 import call_pb2, kv_pb2, scheduler_pb2
from services.common.errors import Failure, Reason
from tests.sdk.fake_gateway import FakeGateway, Pause, finish


@dataclass
class Outcome:
    code: int | None
    out: str
    err: str


async def start(address: str, *arguments: str, stdin: int = asyncio.subprocess.DEVNULL) -> asyncio.subprocess.Process:
    environ = {**os.environ, "LEGATO_ADDRESS": address}
    with interruptible():
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "legato", *arguments, env=environ,
            stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip


@contextmanager
def interruptible() -> Generator[None]:
    """Processes started inside heed SIGINT; tests that a shell runs in the background would pass on that they do not.

    Not by a preexec_fn: a fork that runs Python runs gRPC's fork handlers too, which can abort the child.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def legato(address: str, *arguments: str, text: str = "") -> Outcome:
    process = await start(address, *arguments, stdin=asyncio.subprocess.PIPE)
    async with asyncio.timeout(20):
        out, err = await process.communicate(text.encode())
    return Outcome(process.returncode, out.decode(), err.decode())


async def test_a_prompt_is_answered(address: str, gateway: FakeGateway) -> None:
    outcome = await legato(address, "chat", "--program", "p", "--max-tokens", "5", "--system", "s", "write", "a haiku")
    assert outcome == Outcome(0, "echo: write a haiku\n", "")
    [call] = gateway.calls
    assert (call.identity.program_id, call.identity.agent, call.sampling.max_tokens) == ("p", "chat", 5)
    assert [message.content for message in call.messages] == ["s", "write a haiku"]
    assert gateway.ended == ["p"]


async def test_a_prompt_can_come_through_a_pipe_and_an_answer_leave_as_json(address: str) -> None:
    outcome = await legato(address, "--json", "chat", text="hello")
    reply = json.loads(outcome.out)
    assert (reply["text"], reply["finish_reason"], reply["usage"]["prompt_tokens"]) == ("echo: hello", "stop", 7)


async def test_a_dialogue_goes_on_after_an_error(address: str, gateway: FakeGateway) -> None:
    gateway.answers.extend([["one", finish()], [Failure(Reason.INTERNAL, "oh no")], ["three", finish()]])
    keyboard, terminal = pty.openpty()
    process = await start(address, "chat", stdin=terminal)
    os.close(terminal)
    os.write(keyboard, b"first\n\nsecond\nthird\n\x04")
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    os.close(keyboard)
    assert process.returncode == 0
    assert out.decode().replace("> ", "").split() == ["one", "three"]
    assert "legato: oh no" in err.decode()
    assert [message.content for message in gateway.calls[-1].messages] == ["first", "one", "third"]


async def test_an_interrupt_aborts_the_call_and_ends_the_program(address: str, gateway: FakeGateway) -> None:
    gateway.answers.append(["some", Pause.FOREVER])
    process = await start(address, "chat", "hi")
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert await process.stdout.readexactly(4) == b"some"
        process.send_signal(signal.SIGINT)
        await gateway.cancelled.wait()
        await process.communicate()
    assert process.returncode == 130
    assert len(gateway.ended) == 1


async def test_workers_models_and_programs_are_tables(address: str) -> None:
    workers, models, programs = await asyncio.gather(
        *(legato(address, name) for name in ("workers", "models", "programs"))
    )
    assert workers.out.splitlines() == [
        "WORKER    MODEL  ENGINE  ROLE    ADDRESS      PLACED  RUNNING  WAITING   KV  CACHED  STATE",
        "worker-1  tiny   vllm    decode  127.0.0.1:9      12        8        0  50%     25%  serving",
    ]
    assert models.out.splitlines() == ["MODEL  CONTEXT  WORKERS", "tiny      4096        2"]
    row = programs.out.splitlines()[1].split()
    counts = ["0", "0", "3", "0", "1.50s", "0.00s", "0", "0%"]
    assert row == ["fix-issue-42", "ended", "batch", "10.0s", "50.0s", *counts]


async def test_a_live_program_shows_when_it_will_be_done_and_that_it_is_paused(
    address: str, gateway: FakeGateway
) -> None:
    eta = call_pb2.Eta(expected_seconds=90, low_seconds=30, high_seconds=240.25)
    gateway.programs.append(scheduler_pb2.ProgramStatus(program_id="p", num_queued=2, num_paused=1, eta=eta))
    outcome = await legato(address, "programs")
    assert outcome.out.splitlines()[2].split()[:8] == ["p", "paused", "default", "90.0s", "(30.0-240.2)", "2", "0", "0"]
    as_json = json.loads((await legato(address, "programs", "--json")).out)[1]
    assert as_json["eta"] == {"expected_seconds": 90.0, "low_seconds": 30.0, "high_seconds": 240.25}
    assert (as_json["deadline"], as_json["num_paused"]) == (None, 1)


POOLS = """\
POOL    TIER    USED    SIZE  BLOCKS  HITS  READ/S  WRITTEN/S
host-a  dram  1.5GiB  2.0GiB    1500   60%  238MiB     977KiB
host-a  ssd     512B  8.0TiB       0   15%      0B         0B

POOL    RETENTION  ASKED  MISSED  PULLED  CORRUPT  LEASES  STORES  LOAD/S   SSD/S  PULL/S
host-a  density     1000     25%       7        1       3       2  4.7GiB  954MiB      0B

POOL    EVICTED AS  BLOCKS
host-a  density        300
host-a  superseded      20

POOL    PROGRAM         KEPT
host-a  fix-issue-42  1.0GiB
"""


async def test_pools_are_tables(address: str) -> None:
    outcome = await legato(address, "kv")
    assert outcome == Outcome(0, POOLS, "")


async def test_where_there_is_no_pool_there_is_one_heading(address: str, gateway: FakeGateway) -> None:
    gateway.pools.clear()
    outcome = await legato(address, "kv")
    assert outcome == Outcome(0, "POOL  TIER  USED  SIZE  BLOCKS  HITS  READ/S  WRITTEN/S\n", "")


async def test_the_role_of_a_worker_can_be_changed(address: str, gateway: FakeGateway) -> None:
    changed, unknown = await asyncio.gather(
        legato(address, "workers", "role", "worker-1", "prefill"),
        legato(address, "workers", "role", "worker-1", "none"),
    )
    assert changed == Outcome(0, "", "")
    [request] = gateway.roles
    assert (request.worker_id, request.role) == ("worker-1", kv_pb2.WORKER_ROLE_PREFILL)
    assert unknown.code == 2


async def test_lists_can_be_json(address: str, gateway: FakeGateway) -> None:
    outcome = await legato(address, "programs", "--all", "--limit", "5", "--tenant", "acme", "--json")
    [program] = json.loads(outcome.out)
    assert (program["program_id"], program["started"]) == ("fix-issue-42", "2023-11-14T22:13:20+00:00")
    [asked] = gateway.listed
    assert (asked.include_ended, asked.limit, asked.tenant) == (True, 5, "acme")


async def test_failures_are_one_line_and_exit_code_1(address: str, gateway: FakeGateway) -> None:
    gateway.answers.append([Failure(Reason.MODEL_NOT_FOUND, "no worker serves\nhuge")])
    gateway.refusal = Failure(Reason.NO_SCHEDULER, "no scheduler leads")
    refused, unready, absent = await asyncio.gather(
        legato(address, "chat", "--model", "huge", "hi"),
        legato(address, "workers"),
        legato(address, "--address", "127.0.0.1:1", "workers"),
    )
    assert refused.code == unready.code == absent.code == 1
    assert refused.err.splitlines()[-1] == "legato: no worker serves huge"
    assert unready == Outcome(1, "", "legato: no scheduler leads\n")
    hint = "legato: nothing answers at 127.0.0.1:1: start a gateway, or set --address or LEGATO_ADDRESS\n"
    assert absent == Outcome(1, "", hint)
