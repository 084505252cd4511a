"""A call in the vLLM engine, without the engine: what its output becomes."""

import os
from pathlib import Path
from typing import Any

import pytest

from legato.v1 import call_pb2, kv_pb2, worker_pb2
from services.worker.config import WorkerSection

pytestmark = pytest.mark.filterwarnings("ignore")  # importing torch and vLLM warns of their own affairs

PROMPT = list(range(300, 340))
CALLED = '<tool_call>\n{"name": "search", "arguments": {"query": "x"}}\n</tool_call>'


@pytest.fixture(autouse=True)
def vllm() -> None:
    if os.environ.get("CI") != "true":
        pytest.importorskip("vllm", reason="vLLM is not installed")


class Attempts:
    """Attempts at one call with tools, one after the other."""

    def __init__(self, model_path: Path, tool_parser: str) -> None:
        from vllm.tokenizers import get_tokenizer  # pyright: ignore[reportUnknownVariableType] (typed by half)

        from services.worker.vllm_engine.output import OutputParsers

        self._tokenizer: Any = get_tokenizer(str(model_path))
        self._parsers = OutputParsers(self._tokenizer, WorkerSection(tool_parser=tool_parser))
        self._generated: list[int] = []

    def tokens(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def run(self, token_ids: list[int], reason: str, *, hand_off: bool, max_tokens: int = 99) -> worker_pb2.CallOutput:
        """One that generates these tokens in one step."""
        from vllm.outputs import CompletionOutput, RequestOutput

        from services.worker.vllm_engine.call import Call

        start = worker_pb2.StartCall(
            prompt_token_ids=PROMPT + self._generated,
            num_resumed_tokens=len(self._generated),
            sampling=call_pb2.Sampling(max_tokens=max_tokens),
            tools=[call_pb2.Tool(name="search", parameters_json="{}")],
            kv=kv_pb2.KVPlan(hand_off=hand_off),
        )
        call = Call(start, self._parsers, self._tokenizer, {}, 4096)
        if hand_off:
            assert call.parameters.max_tokens == len(token_ids) == 1
        self._generated += token_ids
        completion = CompletionOutput(0, self._tokenizer.decode(token_ids), token_ids, None, None, finish_reason=reason)
        output = call.take(RequestOutput("r", None, PROMPT, None, [completion], finished=True))
        assert output is not None
        return output


def test_a_tool_call_that_begins_with_the_first_token_is_left_to_the_one_that_goes_on(model_path: Path) -> None:
    attempts = Attempts(model_path, "hermes")
    token_ids = attempts.tokens(CALLED)
    prefilled = attempts.run(token_ids[:1], "length", hand_off=True)
    decoded = attempts.run(token_ids, "stop", hand_off=False)  # a grammar: it is generated again
    assert prefilled.text + decoded.text == ""
    assert [piece.name for piece in decoded.tool_calls if piece.name] == ["search"]
    assert decoded.finish.reason == call_pb2.FINISH_REASON_TOOL_CALLS


def test_what_only_might_begin_a_tool_call_is_told_once(model_path: Path) -> None:
    attempts = Attempts(model_path, "granite")
    first, *others = attempts.tokens("<to be or not")
    prefilled = attempts.run([first], "length", hand_off=True)
    decoded = attempts.run(others, "stop", hand_off=False)
    assert (prefilled.text, decoded.text) == ("", "<to be or not")


@pytest.mark.parametrize(("reason", "max_tokens"), [("stop", 99), ("length", 1)])
def test_a_prefill_with_which_the_call_ends_tells_everything(model_path: Path, reason: str, max_tokens: int) -> None:
    attempts = Attempts(model_path, "granite")
    output = attempts.run(attempts.tokens("<to")[:1], reason, hand_off=True, max_tokens=max_tokens)
    assert output.text == "<"
