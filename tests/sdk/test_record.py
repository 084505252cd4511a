"""`legato record`: what happened on a cluster, as a trace."""

import asyncio
import gzip
import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from legato.v1 import call_pb2, workflow_pb2
from services.common.errors import Failure, Reason
from sim import trace
from sim.experiment import Setup, simulate
from tests.sdk.fake_gateway import FakeGateway
from tests.sdk.test_command import Outcome, start
from tests.sdk.test_command import legato as command
from tests.sdk.test_explain import check_trace

Entry = workflow_pb2.LogEntry
TOKENS = 100
"""Of each message."""


def content(name: str) -> int:
    return int.from_bytes(name.encode()[:8].ljust(8, b"."))


def began(at: float, call_id: str, prompt: str, agent: str = "", program_id: str = "p", **identity: object) -> Entry:
    """Messages are a letter for the role and a name each, parted by blanks."""
    messages = prompt.split()
    who = call_pb2.CallIdentity(program_id=program_id, call_id=call_id, agent=agent, **identity)  # pyright: ignore[reportArgumentType]
    event = workflow_pb2.CallBegan(
        identity=who,
        model="tiny",
        prompt_tokens=TOKENS * len(messages) or 70,
        messages=[content(message[1:]) for message in messages],
        message_tokens=[TOKENS] * len(messages),
        roles="".join(message[0] for message in messages),
    )
    return Entry(at=at, began=event)


def ended(
    at: float, call_id: str, output: str = "", tools: Sequence[str] = (), program_id: str = "p", tokens: int = 90
) -> Entry:
    usage = call_pb2.Usage(prompt_tokens=200, completion_tokens=tokens, cached_tokens=100)
    event = workflow_pb2.CallEnded(
        program_id=program_id,
        call_id=call_id,
        reason=call_pb2.FINISH_REASON_STOP,
        usage=usage,
        timings=call_pb2.Timings(queue_seconds=0.25, prefill_seconds=0.25, decode_seconds=0.5),
        worker_id="w1",
        output=content(output) if output else 0,
        tools=tools,
    )
    return Entry(at=at, ended=event)


def ran(at: float, tool: str, seconds: float, call_id: str) -> Entry:
    return Entry(at=at, tool=workflow_pb2.ToolRan(program_id="p", tool=tool, seconds=seconds, call_id=call_id))


def over(program_id: str = "p", at: float = 100.0) -> Entry:
    return Entry(at=at, over=workflow_pb2.ProgramOver(program_id=program_id))


PROGRAM = [
    began(10.0, "plan", "sS uU", "planner"),
    ended(11.0, "plan", "P"),
    began(11.5, "left", "sL uP", "left"),
    began(11.5, "right", "sR uP", "right"),
    ended(13.0, "left", "A", ["grep", "ls"]),
    ended(14.0, "right", "B"),
    ran(14.0, "grep", 0.75, "left"),
    ran(14.0, "ls", 0.25, "left"),
    began(15.0, "left2", "sL uP aA oresult", "left"),
    ended(16.0, "left2", "C"),
    began(17.0, "join", "sS uU aP uC uB", "planner"),
    ended(18.0, "join"),
]


async def record(address: str, tmp_path: Path, *arguments: str) -> list[trace.Program]:
    file = tmp_path / "trace.jsonl"
    outcome = await command(address, "record", "--out", str(file), *arguments)
    assert outcome.code == 0, outcome.err
    return list(trace.read(file))


async def test_calls_get_the_parents_that_their_prompts_show(
    address: str, gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.log = PROGRAM
    [program] = await record(address, tmp_path)
    parents = {call.agent + str(call.id): call.parents for call in program.calls}
    assert parents == {"planner0": (), "left1": (0,), "right2": (0,), "left3": (1,), "planner4": (2, 3)}
    assert [(call.wait_s, call.wait_kind) for call in program.calls] == [
        (0.0, "env"),
        (0.5, "spawn"),
        (0.5, "spawn"),
        (2.0, "tool"),
        (1.0, "join"),
    ]


async def test_prompts_share_what_they_shared_and_hold_the_outputs_before_them(
    address: str, gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.log = PROGRAM
    [program] = await record(address, tmp_path)
    plan, left, _, left2, join = program.calls
    assert left2.prompt[:2] == left.prompt
    assert left2.prompt[2:3] == left.output
    assert set(join.prompt) >= {*plan.prompt, *plan.output, *left2.output}
    assert join.output == ()
    assert [program.prompt_tokens(call) for call in program.calls] == [200, 200, 200, 400, 500]
    assert (left.tools, left.tool_s) == (("grep", "ls"), (0.75, 0.25))


async def test_what_was_measured_is_kept(address: str, gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.log = PROGRAM
    [program] = await record(address, tmp_path)
    measured = program.calls[3].measured
    assert (measured.start_s, measured.llm_s, measured.ttft_s, measured.worker) == (5.0, 1.0, 0.5, "w1")
    assert (measured.rec_in, measured.rec_out, measured.rec_cached) == (200, 90, 100)


async def test_a_recording_can_be_simulated(address: str, gateway: FakeGateway, tmp_path: Path) -> None:
    second = [began(12.0, "c", "sS uQ", program_id="q"), ended(13.0, "c", program_id="q")]
    gateway.log = [*PROGRAM, *second, over()]
    programs = await record(address, tmp_path)
    assert {program.program_id: program.arrival_s for program in programs} == {"p": 0.0, "q": 2.0}
    outcome = simulate(programs, Setup("llama3-8b@a100-tp1", 1))
    assert [result.completed for result in outcome.programs] == [True, True]
    assert len(outcome.calls) == 6


async def test_what_is_told_twice_is_recorded_once(address: str, gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.log = [entry for entry in PROGRAM for _ in range(2)]
    [program] = await record(address, tmp_path)
    assert len(program.calls) == 5
    assert program.calls[1].tool_s == (0.75, 0.25)


async def test_a_program_that_was_over_is_recorded_again_only_if_it_goes_on(
    address: str, gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.log = [*PROGRAM, over(), *PROGRAM, over(), began(101.0, "more", "uM"), ended(102.0, "more", "N")]
    programs = await record(address, tmp_path)
    assert [len(program.calls) for program in programs] == [5, 1]


async def test_calls_without_output_are_left_out_and_tried_again_under_the_same_name(
    address: str, gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.log = [
        began(0.0, "a", "sS uU"),
        ended(0.1, "a", tokens=0),
        began(1.0, "a", "sS uU"),
        ended(2.0, "a", "A"),
        began(3.0, "b", "sS uU aA uV"),
    ]
    [program] = await record(address, tmp_path)
    assert [call.measured.start_s for call in program.calls] == [1.0]


async def test_declared_parents_go_before_what_is_found(address: str, gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.log = [
        began(0.0, "a", "sS uU"),
        ended(1.0, "a", "A"),
        began(0.0, "b", "sS uV"),
        ended(1.0, "b", "B"),
        began(2.0, "c", "sS uU aA uW", parents=["b"], step="review"),
        ended(3.0, "c"),
    ]
    [program] = await record(address, tmp_path)
    assert (program.calls[2].parents, program.calls[2].phase) == ((1,), "review")


async def test_without_content_calls_follow_each_other_in_their_threads(
    address: str, gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.log = [
        began(0.0, "a", "", thread="x"),
        began(0.0, "b", "", thread="y"),
        ended(1.0, "a"),
        ended(2.0, "b"),
        began(3.0, "c", "", thread="x"),
        ended(4.0, "c"),
    ]
    [program] = await record(address, tmp_path)
    assert [(call.parents, call.thread) for call in program.calls] == [((), 0), ((), 1), ((0,), 0)]
    assert len({call.prompt for call in program.calls}) == 3
    assert program.prompt_tokens(program.calls[0]) == 70


async def test_one_program_can_be_asked_for_and_packed(address: str, gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.log = PROGRAM
    file = tmp_path / "trace.jsonl.gz"
    outcome = await command(address, "record", "--program", "p", "--out", str(file))
    assert outcome == Outcome(0, "", "1 programs, 5 calls\n")
    assert [request.program_id for request in gateway.read] == ["p"]
    assert json.loads(gzip.decompress(file.read_bytes()))["program_id"] == "p"


async def test_a_recording_follows_what_comes_until_it_is_interrupted(
    address: str, gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.log = [began(12.0, "c", "sS", program_id="q"), ended(13.0, "c", program_id="q"), *PROGRAM, over()]
    file, shown = tmp_path / "trace.jsonl", tmp_path / "shown.json"
    process = await start(address, "record", "--follow", "--out", str(file), "--perfetto", str(shown))
    assert process.stderr is not None
    async with asyncio.timeout(20):
        assert await process.stderr.readline() == b"p: 5 calls\n"
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "2 programs, 6 calls\n")
    assert [program.program_id for program in trace.read(file)] == ["p", "q"]
    check_trace(json.loads(shown.read_text()))


@pytest.mark.parametrize("log", [[], [over()], [began(0.0, "a", "sS")]])
async def test_where_nothing_came_of_it_nothing_is_written(
    address: str, gateway: FakeGateway, tmp_path: Path, log: list[Entry]
) -> None:
    gateway.log = log
    assert await record(address, tmp_path) == []


async def test_a_recording_needs_somewhere_to_go(address: str) -> None:
    outcome = await command(address, "record")
    assert outcome == Outcome(2, "", "legato: record needs --out or --perfetto\n")


@pytest.mark.parametrize("option", ["--out", "--perfetto"])
async def test_a_path_that_cannot_be_written_is_told_before_anything_is_recorded(
    address: str, gateway: FakeGateway, tmp_path: Path, option: str
) -> None:
    gateway.refusal = Failure(Reason.NO_WORKFLOW, "nobody was to be asked")
    file = tmp_path / "absent" / "trace"
    outcome = await command(address, "record", option, str(file))
    assert outcome == Outcome(1, "", f"legato: {file}: No such file or directory\n")


async def test_without_a_workflow_service_nothing_is_recorded(
    address: str, gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.refusal = Failure(Reason.NO_WORKFLOW, "no workflow service answers")
    outcome = await command(address, "record", "--out", str(tmp_path / "trace.jsonl"))
    assert outcome == Outcome(1, "", "legato: no workflow service answers\n")
