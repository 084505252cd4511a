"""One call in the vLLM engine: what goes into vLLM, and what becomes of what comes out.

A resumed call goes on from a longer prompt where that is the same thing. Where it is not (`must_replay`) it is
generated again from its beginning, and what the client has already is compared and held back; should the engine choose
otherwise this time, the call fails, since half of one answer and half of another is none.
"""

from __future__ import annotations  # for FinishReason.ValueType, which only the stubs have

from typing import Any

from vllm.inputs.engine import TokensInput, tokens_input
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import TokenizerLike
from vllm.v1.metrics.stats import RequestStateStats

from legato.v1 import call_pb2, worker_pb2
from services.common.errors import Failure, Reason
from services.worker.kv import params as kv_params
from services.worker.vllm_engine import sampling
from services.worker.vllm_engine.logprobs import token_logprobs
from services.worker.vllm_engine.output import Delta, OutputParsers

_REASONS = {
    "stop": call_pb2.FINISH_REASON_STOP,
    "repetition": call_pb2.FINISH_REASON_STOP,
    "length": call_pb2.FINISH_REASON_LENGTH,
    "abort": call_pb2.FINISH_REASON_ABORT,
}


class Call:
    """A call's state. Construction raises Failure for what cannot be served."""

    def __init__(
        self,
        start: worker_pb2.StartCall,
        parsers: OutputParsers,
        tokenizer: TokenizerLike,
        defaults: dict[str, Any],
        max_model_len: int,
        *,
        pooled: bool = False,
    ) -> None:
        """`pooled`: the engine has a connector to a KV pool."""
        _check_lengths(start, max_model_len)
        ids = list(start.prompt_token_ids)
        split = len(ids) - start.num_resumed_tokens
        self._prompt, resumed = ids[:split], ids[split:]
        self._tokenizer = tokenizer
        self._parser = parsers.make(start)
        self._output: list[int] = []
        self._called_tools = False
        self._num_cached = 0
        self._stats: RequestStateStats | None = None
        self._held: list[int] = []
        """Output that is expected again and not told again."""
        self._held_chars = 0
        """Characters that are expected again; as vLLM gives them, before any parser."""
        self._shown_chars = 0
        """Visible characters that are expected again, where the client said how many it has."""
        self._counts = False
        self._seam = ""
        """What an earlier attempt generated and held back, to be told first."""
        self.parameters = self._parameters(start, defaults, 0)
        if resumed and sampling.must_replay(self.parameters):
            self._held, ids = resumed, self._prompt
            self._held_chars = len(self._told(resumed))
            self._shown_chars = start.num_resumed_chars
            self._counts = start.num_resumed_chars > 0
        elif resumed and not _used_up(start):
            self.parameters = self._parameters(start, defaults, len(resumed))
            told = self._told(resumed)
            self._seam = self._decode(resumed)[len(told) :]
            self._feed(told, resumed, finished=False)
        self._output += [] if self._held else resumed
        if pooled:
            self.parameters.extra_args = {"kv_transfer_params": kv_params.pack(start)}
        self._cut = start.kv.hand_off and not self._held and self.parameters.max_tokens != 1
        """Another worker goes on where this one ends. What is generated again is generated here to its end."""
        if self._cut:
            self.parameters.max_tokens = 1
            self.parameters.min_tokens = min(self.parameters.min_tokens, 1)
        self.input: TokensInput = tokens_input(ids, cache_salt=start.cache_salt or None)
        self.used_up = not self._held and _used_up(start)
        """Nothing is left to generate: earlier attempts came as far as max_tokens allows."""

    def take(self, result: RequestOutput) -> worker_pb2.CallOutput | None:
        """Turn vLLM's next output into ours; None: nothing to tell. Raises Failure if the call went wrong."""
        completion = result.outputs[0]
        if completion.finish_reason == "error":
            raise Failure(Reason.INTERNAL, "the engine failed on this call")
        num_failed = (result.kv_transfer_params or {}).get(kv_params.NUM_FAILED_TOKENS, 0)
        self._num_cached = max(0, min(result.num_cached_tokens or 0, len(self._prompt)) - num_failed)
        self._stats = result.metrics or self._stats
        token_ids, text = list(completion.token_ids), self._seam + completion.text
        self._seam = ""
        held = self._hold(token_ids, finished=result.finished)
        again = ""
        if held:
            # The end brings text that had been held back, which the client does not have.
            whole = held == len(token_ids) and not result.finished
            cut = len(text) if whole else min(self._held_chars, len(text))
            self._held_chars = max(0, self._held_chars - cut)
            again = self._feed(text[:cut], token_ids[:held], finished=False).text
            token_ids, text = token_ids[held:], text[cut:]
        offset = len(self._output)
        self._output += token_ids
        # Who goes on takes in the same tokens again and tells what the parser keeps back of them.
        finished = result.finished and not (self._cut and completion.finish_reason == "length")
        delta = self._feed(text, token_ids, finished=finished) if text or token_ids or finished else Delta()
        delta.text = self._unseen(again, delta.text)
        if held and not (token_ids or delta.text or result.finished):
            return None
        message = worker_pb2.CallOutput(
            offset=offset, token_ids=token_ids, text=delta.text, reasoning=delta.reasoning, tool_calls=delta.tool_calls
        )
        if completion.logprobs:
            positions = zip(token_ids, list(completion.logprobs)[held:], strict=False)
            message.logprobs.extend(token_logprobs(self._tokenizer, positions, self.parameters.logprobs or 0))
        if result.finished:
            message.finish.CopyFrom(self._finish(completion))
        return message

    def end(self, reason: call_pb2.FinishReason.ValueType, failure: Failure | None = None) -> worker_pb2.CallOutput:
        """The last output of a call that vLLM does not end itself."""
        finish = worker_pb2.Finish(reason=reason, usage=self._usage(), timings=self._timings())
        if failure is not None:
            finish.error_reason, finish.error_message = failure.reason.name, failure.message
        return worker_pb2.CallOutput(offset=len(self._output), finish=finish)

    def _parameters(self, start: worker_pb2.StartCall, defaults: dict[str, Any], num_done: int) -> SamplingParams:
        return sampling.parameters(
            start,
            defaults,
            self._parser.structured_outputs,
            num_done,
            skip_special_tokens=self._parser.skip_special_tokens,
        )

    def _told(self, resumed: list[int]) -> str:
        """What of the text of these tokens an earlier attempt has told, as far as tokens let one know."""
        text = self._decode(resumed)
        return text[: max(0, len(text) - sampling.held_back(self.parameters))]

    def _unseen(self, again: str, text: str) -> str:
        """What the client does not have of the text that came again and that which came after it."""
        if not self._counts:
            return text
        text = again + text
        skip = min(self._shown_chars, len(text))
        self._shown_chars -= skip
        return text[skip:]

    def _decode(self, token_ids: list[int]) -> str:
        # A character whose last bytes are still to come is not text yet.
        skip = self._parser.skip_special_tokens
        return self._tokenizer.decode(token_ids, skip_special_tokens=skip).rstrip("\ufffd")

    def _hold(self, token_ids: list[int], *, finished: bool) -> int:
        """How many of these tokens the client has. Raises Failure where they differ from what it has."""
        if len(self._output) >= len(self._held):
            return 0
        expected = self._held[len(self._output) : len(self._output) + len(token_ids)]
        held = len(expected)
        short = finished and len(self._output) + len(token_ids) < len(self._held)
        if token_ids[:held] != expected or short:
            raise Failure(Reason.INTERNAL, "the call lost its worker and the engine did not repeat its output")
        self._output += expected
        return held

    def _feed(self, text: str, token_ids: list[int], *, finished: bool) -> Delta:
        delta = self._parser.feed(text, token_ids, self._prompt, finished=finished)
        self._called_tools = self._called_tools or bool(delta.tool_calls)
        return delta

    def _finish(self, completion: CompletionOutput) -> worker_pb2.Finish:
        reason = _REASONS[completion.finish_reason or "stop"]
        if reason == call_pb2.FINISH_REASON_STOP and self._called_tools:
            reason = call_pb2.FINISH_REASON_TOOL_CALLS
        stop = completion.stop_reason if isinstance(completion.stop_reason, str) else ""
        return worker_pb2.Finish(reason=reason, stop=stop, usage=self._usage(), timings=self._timings())

    def _usage(self) -> call_pb2.Usage:
        return call_pb2.Usage(
            prompt_tokens=len(self._prompt),
            completion_tokens=len(self._output),
            cached_tokens=self._num_cached,
            reasoning_tokens=self._parser.count_reasoning(self._output),
        )

    def _timings(self) -> call_pb2.Timings:
        stats = self._stats
        if stats is None or not stats.first_token_ts:
            return call_pb2.Timings()
        return call_pb2.Timings(
            queue_seconds=stats.scheduled_ts - stats.queued_ts,
            prefill_seconds=stats.first_token_ts - stats.scheduled_ts,
            decode_seconds=stats.last_token_ts - stats.first_token_ts,
        )


def _used_up(start: worker_pb2.StartCall) -> bool:
    limited = start.sampling.HasField("max_tokens")
    return start.num_resumed_tokens > 0 and limited and start.num_resumed_tokens >= start.sampling.max_tokens


def _check_lengths(start: worker_pb2.StartCall, max_model_len: int) -> None:
    num_tokens = len(start.prompt_token_ids)
    if num_tokens <= start.num_resumed_tokens:
        raise Failure(Reason.INVALID_ARGUMENT, "the prompt is empty", "prompt_token_ids")
    if num_tokens >= max_model_len:
        message = f"the prompt has {num_tokens} tokens; prompt and output together may have {max_model_len}"
        raise Failure(Reason.CONTEXT_LENGTH_EXCEEDED, message, "prompt_token_ids")
