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
    """Attempts at one call, one after the other."""

    def __init__(self, model_path: Path) -> None:
        from vllm.tokenizers import get_tokenizer

        from services.worker.vllm_engine.output import OutputParsers

        self.tokenizer: Any = get_tokenizer(str(model_path))
        self._parsers = OutputParsers(self.tokenizer, WorkerSection(model_path=str(model_path)))
        self.generated: list[int] = []

    def run(self, token_ids: list[int], reason: str, *, hand_off: bool, max_tokens: int = 99) -> worker_pb2.CallOutput:
        """One that generates these tokens in one step."""
        from vllm.outputs import CompletionOutput, RequestOutput

        from services.worker.vllm_engine.call import Call

        start = worker_pb2.StartCall(
            prompt_token_ids=PROMPT + self.generated,
            num_resumed_tokens=len(self.generated),
            sampling=call_pb2.Sampling(max_tokens=max_tokens),
            tools=[call_pb2.Tool(name="search", parameters_json="{}")],
            kv=kv_pb2.KVPlan(hand_off=hand_off),
        )
        call = Call(start, self._parsers, self.tokenizer, {}, 4096)
        if hand_off:
            assert call.parameters.max_tokens == len(token_ids) == 1
        self.generated += token_ids
        text = self.tokenizer.decode(token_ids)
        completion = CompletionOutput(0, text, token_ids, None, None, finish_reason=reason)
        output = call.take(RequestOutput("r", None, PROMPT, None, [completion], finished=True))
        assert output is not None
        return output


@pytest.fixture
def attempts(model_path: Path) -> Attempts:
    return Attempts(model_path)


def test_what_may_begin_a_tool_call_is_left_to_the_one_that_goes_on(attempts: Attempts) -> None:
    first, *rest = attempts.tokenizer.encode(CALLED, add_special_tokens=False)
    assert "<tool_call>".startswith(attempts.tokenizer.decode([first]))
    prefilled = attempts.run([first], "length", hand_off=True)
    decoded = attempts.run(rest, "stop", hand_off=False)
    assert prefilled.text + decoded.text == ""
    assert [piece.name for piece in decoded.tool_calls] == ["search"]
    assert decoded.finish.reason == call_pb2.FINISH_REASON_TOOL_CALLS


def test_what_only_seemed_to_begin_a_tool_call_is_told_once(attempts: Attempts) -> None:
    first, *rest = attempts.tokenizer.encode("<to be or not", add_special_tokens=False)
    prefilled = attempts.run([first], "length", hand_off=True)
    decoded = attempts.run(rest, "stop", hand_off=False)
    assert prefilled.text + decoded.text == attempts.tokenizer.decode([first, *rest])


@pytest.mark.parametrize(("reason", "max_tokens"), [("stop", 99), ("length", 1)])
def test_a_prefill_with_which_the_call_ends_tells_everything(attempts: Attempts, reason: str, max_tokens: int) -> None:
    first = attempts.tokenizer.encode(CALLED, add_special_tokens=False)[0]
    output = attempts.run([first], reason, hand_off=True, max_tokens=max_tokens)
    assert output.text == attempts.tokenizer.decode([first])
