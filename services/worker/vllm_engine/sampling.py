"""From a call to vLLM's sampling parameters, and whether a resumed call can go on where it was."""

import json
from typing import Any

from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind, SamplingParams, SamplingType, StructuredOutputsParams

from legato.v1 import call_pb2, worker_pb2
from services.common.errors import Failure, Reason

_PLAIN = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
)


def parameters(
    start: worker_pb2.StartCall,
    defaults: dict[str, Any],
    structured_outputs: StructuredOutputsParams | None,
    num_done: int,
    *,
    skip_special_tokens: bool,
) -> SamplingParams:
    """`defaults`: the model's own (`generation_config.json`). `structured_outputs`: as the output parser wants it.

    `num_done`: output tokens that the prompt holds already. Raises Failure for values that vLLM refuses.
    """
    sampling = start.sampling
    chosen: dict[str, Any] = {name: getattr(sampling, name) for name in _PLAIN if sampling.HasField(name)}
    if sampling.HasField("max_tokens"):
        chosen["max_tokens"] = sampling.max_tokens - num_done
    try:
        return SamplingParams(
            **{name: value for name, value in defaults.items() if name not in chosen},
            **chosen,
            min_tokens=max(0, sampling.min_tokens - num_done),
            stop=list(sampling.stop),
            stop_token_ids=list(sampling.stop_token_ids),
            ignore_eos=sampling.ignore_eos,
            logprobs=sampling.logprobs if sampling.HasField("logprobs") else None,
            logit_bias=dict(sampling.logit_bias) or None,
            structured_outputs=structured_outputs,
            skip_special_tokens=skip_special_tokens,
            output_kind=RequestOutputKind.DELTA,
            stream_interval=start.stream_interval or None,
        )
    except (VLLMClientError, ValueError, TypeError) as error:
        raise Failure(Reason.INVALID_ARGUMENT, str(error), "sampling") from error


def constraint(wanted: call_pb2.Constraint) -> StructuredOutputsParams | None:
    """vLLM's form of a constraint. Raises Failure for one that is malformed."""
    try:
        return _constraint(wanted)
    except (VLLMClientError, ValueError) as error:
        raise Failure(Reason.INVALID_ARGUMENT, str(error), "constraint") from error


def _constraint(wanted: call_pb2.Constraint) -> StructuredOutputsParams | None:
    match wanted.WhichOneof("kind"):
        case "json_schema":
            return StructuredOutputsParams(json=json.loads(wanted.json_schema))
        case "json_object":
            return StructuredOutputsParams(json_object=True) if wanted.json_object else None
        case "regex":
            return StructuredOutputsParams(regex=wanted.regex)
        case "grammar":
            return StructuredOutputsParams(grammar=wanted.grammar)
        case "choice":
            return StructuredOutputsParams(choice=list(wanted.choice.choices))
        case _:
            return None


def must_replay(parameters: SamplingParams) -> bool:
    """Whether a resumed call has to be generated again from its beginning.

    Grammars, penalties and random generators hold state over the output that a longer prompt does not restore. So do
    stop strings, of which the earlier attempt may have seen a part; but what is drawn unseeded cannot be replayed.
    """
    return (
        parameters.structured_outputs is not None
        or parameters.seed is not None
        or bool(parameters.presence_penalty or parameters.frequency_penalty)
        or (bool(parameters.stop) and parameters.sampling_type is SamplingType.GREEDY)
    )


def held_back(parameters: SamplingParams) -> int:
    """How many characters vLLM keeps until more have come, for they may begin a stop string."""
    return max((len(stop) for stop in parameters.stop or ()), default=1) - 1
