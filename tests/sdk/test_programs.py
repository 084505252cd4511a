"""Programs: who follows whom, how tools are reported, and that the end is always said."""

import asyncio

import pytest

import legato
from legato.v1 import gateway_pb2
from services.common.errors import Failure, Reason
from tests.sdk.fake_gateway import FakeGateway, Pause

Lineage = dict[str, tuple[str, set[str]]]


def lineage(gateway: FakeGateway) -> Lineage:
    """Of each call, named by its prompt: its thread and the prompts of its parents."""
    prompts = {call.identity.call_id: call.messages[-1].content for call in gateway.calls}

    def told(call: gateway_pb2.ChatRequest) -> tuple[str, set[str]]:
        return call.identity.thread, {prompts[parent] for parent in call.identity.parents}

    return {call.messages[-1].content: told(call) for call in gateway.calls}


async def test_calls_made_one_after_the_other_are_a_chain(client: legato.Client, gateway: FakeGateway) -> None:
    async with client.program() as program:
        coder, critic = program.agent("coder"), program.agent("critic")
        await coder.chat("a")
        async with critic.stream("b") as stream:
            await stream.finish()
        await coder.chat("c")
    assert lineage(gateway) == {"a": ("", set()), "b": ("", {"a"}), "c": ("", {"b"})}
    assert [call.identity.agent for call in gateway.calls] == ["coder", "critic", "coder"]


async def test_gathered_calls_are_a_fork_that_the_next_call_joins(client: legato.Client, gateway: FakeGateway) -> None:
    async with client.program() as program:
        agent = program.agent("coder")
        await agent.chat("a")
        left, right = await program.gather(agent.chat("b"), agent.chat("c"))
        await agent.chat("d")
    assert (left.text, right.text) == ("echo: b", "echo: c")
    assert lineage(gateway) == {"a": ("", set()), "b": ("1", {"a"}), "c": ("2", {"a"}), "d": ("", {"b", "c"})}


async def test_branches_follow_the_task_and_nest(client: legato.Client, gateway: FakeGateway) -> None:
    async def explore(name: str) -> None:
        async with program.branch(name) as branch:
            await agent.chat(f"{branch.id} first")
            await branch.gather(agent.chat(f"{name} x"), agent.chat(f"{name} y"))
            await branch.agent("judge").chat(f"{name} last")

    async with client.program() as program:
        agent = program.agent("scout")
        async with asyncio.TaskGroup() as group:
            for name in ("left", "right"):
                group.create_task(explore(name))
        await agent.chat("join")
    assert lineage(gateway) == {
        "left first": ("left", set()),
        "left x": ("left/1", {"left first"}),
        "left y": ("left/2", {"left first"}),
        "left last": ("left", {"left x", "left y"}),
        "right first": ("right", set()),
        "right x": ("right/1", {"right first"}),
        "right y": ("right/2", {"right first"}),
        "right last": ("right", {"right x", "right y"}),
        "join": ("", {"left last", "right last"}),
    }


async def test_a_branch_can_be_handed_to_tasks_outside_it(client: legato.Client, gateway: FakeGateway) -> None:
    handed: asyncio.Queue[legato.Branch] = asyncio.Queue(1)

    async def outside() -> None:
        branch = await handed.get()
        judge = branch.agent("judge")
        await judge.chat("a")
        await branch.gather(judge.chat("b"), judge.chat("c"))
        await program.agent("coder").chat("d")

    async with client.program() as program, asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(outside())
        async with program.branch("arm") as branch:
            await handed.put(branch)
            await task
    assert lineage(gateway) == {"a": ("arm", set()), "b": ("arm/1", {"a"}), "c": ("arm/2", {"a"}), "d": ("", set())}


async def test_a_branch_after_another_of_the_same_name_is_another_thread(
    client: legato.Client, gateway: FakeGateway
) -> None:
    async with client.program() as program:
        for prompt in ("a", "b"):
            async with program.branch("try"):
                await program.agent("coder").chat(prompt)
        async with program.branch("idle"):
            pass
        await program.agent("coder").chat("c")
    assert lineage(gateway) == {"a": ("try", set()), "b": ("try-2", {"a"}), "c": ("", {"b"})}


async def test_calls_at_once_in_one_thread_do_not_follow_each_other(
    client: legato.Client, gateway: FakeGateway
) -> None:
    async with client.program() as program:
        agent = program.agent("coder")
        await asyncio.gather(agent.chat("a"), agent.chat("b"))
        await agent.chat("c")
    assert lineage(gateway) == {"a": ("", set()), "b": ("", set()), "c": ("", {"a", "b"})}


async def test_a_failed_call_has_no_followers(client: legato.Client, gateway: FakeGateway) -> None:
    async with client.program() as program:
        agent = program.agent("coder")
        await agent.chat("a")
        gateway.answers.append([Failure(Reason.INTERNAL, "bug")])
        with pytest.raises(legato.InternalError):
            await agent.chat("b")
        await agent.chat("c")
    assert lineage(gateway)["c"] == ("", {"a"})


async def test_programs_inside_programs_keep_their_own_threads(client: legato.Client, gateway: FakeGateway) -> None:
    async with client.program("outer") as outer, outer.branch("arm"), client.program("inner") as inner:
        await inner.agent("coder").chat("a")
        await outer.agent("coder").chat("b")
    assert lineage(gateway) == {"a": ("", set()), "b": ("arm", set())}
    assert [call.identity.program_id for call in gateway.calls] == ["inner", "outer"]


async def test_the_first_failure_of_a_gathering_ends_the_others(client: legato.Client, gateway: FakeGateway) -> None:
    gateway.answers.extend([["x", Pause.FOREVER], [Failure(Reason.MODEL_NOT_FOUND, "no such model")]])
    async with asyncio.timeout(5), client.program() as program:
        agent = program.agent("coder")
        with pytest.raises(legato.ModelNotFound):
            await program.gather(agent.chat("a"), agent.chat("b"))
        if len(gateway.calls) == 2:  # the other one may not even have begun
            await gateway.cancelled.wait()


async def test_programs_have_fresh_ids_and_say_that_they_end(client: legato.Client, gateway: FakeGateway) -> None:
    async with client.program() as first, client.program() as second:
        assert first.id != second.id
        assert not gateway.ended
    assert gateway.ended == [second.id, first.id]


async def test_a_program_ends_when_its_body_raises(client: legato.Client, gateway: FakeGateway) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.program("p"):
            _ = 1 // 0
    assert gateway.ended == ["p"]


async def test_a_program_ends_when_its_task_is_cancelled(client: legato.Client, gateway: FakeGateway) -> None:
    gateway.answers.append(["x", Pause.FOREVER])
    reading = asyncio.Event()

    async def run() -> None:
        async with client.program("p") as program, program.agent("coder").stream("hi") as stream:
            async for _ in stream:
                reading.set()

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(run())
        await reading.wait()
        task.cancel()
    assert task.cancelled()
    assert gateway.ended == ["p"]


async def test_a_goodbye_that_fails_is_no_error_of_the_program(
    client: legato.Client, gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.refusal = Failure(Reason.INTERNAL, "bug")
    async with client.program("p") as program, program.tool("search"):
        pass
    assert "tool span search of program p" in caplog.text
    assert "program p could not be ended" in caplog.text


async def test_a_tool_span_is_measured_and_belongs_to_the_last_call(
    client: legato.Client, gateway: FakeGateway
) -> None:
    async with client.program("p") as program:
        reply = await program.agent("coder").chat("hi")
        async with program.tool("search") as span:
            pass
        await program.agent("coder").chat("go on")
    [report] = gateway.spans
    assert (report.program_id, report.agent, report.tool, report.call_id) == ("p", "coder", "search", reply.call_id)
    assert report.duration.ToNanoseconds() == round(span.duration_seconds * 1e9)
    assert report.duration.ToNanoseconds() > 0
    assert report.started.seconds > 1_700_000_000
    assert not report.failed
    assert report.request_id


async def test_a_tool_that_raises_has_failed(client: legato.Client, gateway: FakeGateway) -> None:
    async with client.program() as program:
        with pytest.raises(TimeoutError):
            async with program.tool("search", agent="scout", call_id="c9"):
                raise TimeoutError
        async with program.tool("test") as span:
            span.failed = True
    first, second = gateway.spans
    assert (first.failed, first.agent, first.call_id) == (True, "scout", "c9")
    assert (second.failed, second.agent, second.call_id) == (True, "", "")
