"""What the simulated engine answers: the whole output of a call, planned when the call begins.

A pure function of the original prompt, the sampling parameters and the constraint: asking again, or resuming with the
tokens generated so far, gives the same output. Open text is words of the vocabulary; a constraint or a required tool
gives the smallest instance that satisfies it. With `tool_choice` auto no tool is called.
"""

import hashlib
import json
import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from legato.v1 import call_pb2, worker_pb2
from services.common.errors import Failure, Reason
from services.worker.simulated.instances import instance
from services.worker.simulated.patterns import Unsupported, example
from services.worker.simulated.vocabulary import Vocabulary, Word

MAX_LOGPROBS = 20
"""As in vLLM."""
_STRING_WORDS = 3


@dataclass(slots=True)
class Plan:
    """The output of a call from its first token on, whatever earlier attempts made of it."""

    ids: list[int]
    pieces: list[str]
    """The visible text that each token adds; of a tool call, its arguments."""
    finish: "call_pb2.FinishReason.ValueType"
    stop: str = ""
    """The stop string that ended it."""
    tool: call_pb2.ToolCall | None = None
    """The called tool, without arguments."""


def plan(
    start: worker_pb2.StartCall, prompt: "array[int]", vocabulary: Vocabulary, max_model_len: int, mean_tokens: float
) -> Plan:
    """Plan the output. `prompt`: without resumed tokens. Raises Failure (INVALID_ARGUMENT, CONTEXT_LENGTH_EXCEEDED)."""
    limit = _limit(start.sampling, len(prompt), max_model_len)
    choices = random.Random(_seed(prompt, start.sampling))
    kind = start.constraint.WhichOneof("kind")
    mode = start.tool_choice.mode
    if mode in (call_pb2.ToolChoice.MODE_REQUIRED, call_pb2.ToolChoice.MODE_NAMED):
        planned = _tool_call(start, vocabulary, choices)
    elif kind is not None:
        planned = _spelled(_constrained(start.constraint, kind, vocabulary, choices), vocabulary)
    else:
        planned = _prose(start.sampling, vocabulary, choices, limit, mean_tokens)
    if planned.tool is None:
        _apply_stops(planned, start.sampling)
    cut(planned, limit)
    return planned


def cut(planned: Plan, limit: int) -> None:
    """End the output at that many tokens if it is longer."""
    if len(planned.ids) > limit:
        del planned.ids[limit:], planned.pieces[limit:]
        planned.finish, planned.stop = call_pb2.FINISH_REASON_LENGTH, ""


def logprobs(planned: Plan, begin: int, end: int, num_top: int, vocabulary: Vocabulary) -> list[call_pb2.TokenLogprob]:
    """Log probabilities of the planned tokens from `begin` to `end`: made up, but plausible and always the same."""
    result: list[call_pb2.TokenLogprob] = []
    words = vocabulary.words
    for position in range(begin, end):
        token_id = planned.ids[position]
        best = -0.05 - 0.001 * (token_id * 31 + position) % 0.2
        row = call_pb2.TokenLogprob(token_id=token_id, logprob=best, token=vocabulary.text(token_id))
        others = (words[(token_id + step) % len(words)] for step in range(1, num_top + 1))
        distinct = [word for word in others if word.token_id != token_id][: max(num_top - 1, 0)]
        candidates = [Word(token_id, row.token), *distinct][:num_top]
        for rank, word in enumerate(candidates):
            row.top.add(token_id=word.token_id, logprob=best - 3.0 * rank, token=word.text)
        result.append(row)
    return result


def _limit(sampling: call_pb2.Sampling, prompt_tokens: int, max_model_len: int) -> int:
    """Most tokens of output; checks on the way what the engine must refuse."""
    if prompt_tokens == 0:
        raise Failure(Reason.INVALID_ARGUMENT, "the prompt is empty", field="prompt_token_ids")
    if prompt_tokens >= max_model_len:
        message = f"the prompt has {prompt_tokens} tokens; with at least one of output the model takes {max_model_len}"
        raise Failure(Reason.CONTEXT_LENGTH_EXCEEDED, message, field="prompt_token_ids")
    left = max_model_len - prompt_tokens
    if sampling.logprobs > MAX_LOGPROBS:
        raise Failure(Reason.INVALID_ARGUMENT, f"logprobs must be at most {MAX_LOGPROBS}", field="sampling.logprobs")
    if not sampling.HasField("max_tokens"):
        return left
    if sampling.max_tokens == 0:
        raise Failure(Reason.INVALID_ARGUMENT, "max_tokens must be at least 1", field="sampling.max_tokens")
    return min(sampling.max_tokens, left)


def _seed(prompt: "array[int]", sampling: call_pb2.Sampling) -> int:
    """The stand-in for the model's weights: any change of the prompt changes the output."""
    digest = hashlib.blake2b(prompt.tobytes(), digest_size=8)
    if not sampling.HasField("temperature") or sampling.temperature > 0:
        digest.update(b"%d" % sampling.seed)
    return int.from_bytes(digest.digest(), "big")


def _prose(
    sampling: call_pb2.Sampling, vocabulary: Vocabulary, choices: random.Random, limit: int, mean_tokens: float
) -> Plan:
    """Words, as many as a geometric law says."""
    wanted = 1 + int(-math.log(1.0 - choices.random()) * mean_tokens)
    wanted = limit if sampling.ignore_eos else max(wanted, sampling.min_tokens)
    count = min(wanted, limit)
    words = [choices.choice(vocabulary.openers), *choices.choices(vocabulary.words, k=count - 1)]
    planned = Plan([word.token_id for word in words], [word.text for word in words], call_pb2.FINISH_REASON_STOP)
    if sampling.ignore_eos:
        planned.finish = call_pb2.FINISH_REASON_LENGTH
    elif vocabulary.end is not None:
        planned.ids.append(vocabulary.end)
        planned.pieces.append("")
    return planned


def _spelled(text: str, vocabulary: Vocabulary) -> Plan:
    """A given text and the end of the output."""
    ids, pieces = vocabulary.encode(text)
    if vocabulary.end is not None or not ids:  # no output is shorter than a token
        ids.append(vocabulary.end or 0)
        pieces.append("")
    return Plan(ids, pieces, call_pb2.FINISH_REASON_STOP)


def _constrained(constraint: call_pb2.Constraint, kind: str, vocabulary: Vocabulary, choices: random.Random) -> str:
    """A text that satisfies the constraint."""
    words = _words(vocabulary, choices)
    try:
        match kind:
            case "json_schema":
                return _json(instance(constraint.json_schema, words))
            case "json_object":
                return _json({"answer": " ".join(words)})
            case "regex":
                return example(constraint.regex)
            case "choice":
                if not constraint.choice.choices:
                    raise Unsupported("there is nothing to choose from")
                return choices.choice(constraint.choice.choices)
            case _:
                raise Unsupported(f"the simulated engine knows no {kind}")
    except Unsupported as error:
        message = f"the simulated engine cannot satisfy the constraint: {error}"
        raise Failure(Reason.INVALID_ARGUMENT, message, field=f"constraint.{kind}") from None


def _tool_call(start: worker_pb2.StartCall, vocabulary: Vocabulary, choices: random.Random) -> Plan:
    """One call of the named tool, or of any."""
    named = start.tool_choice.mode == call_pb2.ToolChoice.MODE_NAMED
    tools = [tool for tool in start.tools if not named or tool.name == start.tool_choice.name]
    if not tools:
        message = f"there is no tool {start.tool_choice.name!r}" if named else "there is no tool to call"
        raise Failure(Reason.INVALID_ARGUMENT, message, field="tool_choice")
    tool = choices.choice(tools)
    try:
        arguments = _json(instance(tool.parameters_json or '{"type": "object"}', _words(vocabulary, choices)))
    except Unsupported as error:
        message = f"the simulated engine cannot make arguments for {tool.name}: {error}"
        raise Failure(Reason.INVALID_ARGUMENT, message, field="tools") from None
    # The tokens are what vLLM makes a model say: the arguments alone for a named tool, else a list of calls.
    before, after = ("", "") if named else (f'[{{"name": {_json(tool.name)}, "parameters": ', "}]")
    planned = _spelled(before + arguments + after, vocabulary)
    _show(planned.pieces, len(before), len(before) + len(arguments))
    identity = f"{start.identity.program_id}\0{start.identity.call_id}\0{choices.random()}"
    tool_id = "call_" + hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
    planned.tool = call_pb2.ToolCall(id=tool_id, name=tool.name)
    planned.finish = call_pb2.FINISH_REASON_TOOL_CALLS
    return planned


def _words(vocabulary: Vocabulary, choices: random.Random) -> list[str]:
    return [word.text.strip() or "a" for word in choices.choices(vocabulary.words, k=_STRING_WORDS)]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _show(pieces: list[str], begin: int, end: int) -> None:
    """Keep of the text that the pieces make only the characters from `begin` to `end`."""
    offset = 0
    for index, piece in enumerate(pieces):
        pieces[index] = piece[max(begin - offset, 0) : max(end - offset, 0)]
        offset += len(piece)


def _apply_stops(planned: Plan, sampling: call_pb2.Sampling) -> None:
    """Cut the output where a stop token, or the token that completes a stop string, comes first."""
    least = max(sampling.min_tokens, 1)
    stop_ids = frozenset(sampling.stop_token_ids)
    if stop_ids:
        index = next((i for i in range(least - 1, len(planned.ids)) if planned.ids[i] in stop_ids), None)
        if index is not None:
            del planned.ids[index + 1 :], planned.pieces[index + 1 :]
            planned.pieces[index] = ""
            planned.finish = call_pb2.FINISH_REASON_STOP
    if sampling.stop:
        _apply_stop_strings(planned, sampling.stop, least)


def _apply_stop_strings(planned: Plan, stops: Sequence[str], least: int) -> None:
    text = "".join(planned.pieces)
    ends = list(accumulate(len(piece) for piece in planned.pieces))
    first = ends[least - 2] if 2 <= least <= len(ends) else 0
    found = [(at + len(stop), at, stop) for stop in stops if stop and (at := text.find(stop, first)) >= 0]
    if not found or least > len(ends):
        return
    end, at, stop = min(found)
    index = next(i for i, length in enumerate(ends) if length >= end)
    del planned.ids[index + 1 :], planned.pieces[index + 1 :]
    _show(planned.pieces, 0, at)
    planned.finish, planned.stop = call_pb2.FINISH_REASON_STOP, stop
