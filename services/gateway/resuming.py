"""What a lost call needs to go on as it began: docs/decisions/0006-resuming.md."""

from legato.v1 import call_pb2, worker_pb2


def holds_state(start: worker_pb2.StartCall) -> bool:
    """Whether choosing the next token depends on more of the earlier output than that it is in the prompt."""
    sampling, mode = start.sampling, start.tool_choice.mode
    return (
        start.constraint.WhichOneof("kind") is not None
        or (bool(start.tools) and mode != call_pb2.ToolChoice.MODE_NONE)  # vLLM holds tool calls to a grammar
        or bool(sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty not in (0, 1))
        or sampling.HasField("seed")
        or sampling.min_tokens > 0
        or len(sampling.stop) > 0
    )


def repeats(sampling: call_pb2.Sampling) -> bool:
    """Whether the same prompt gives the same output again. The model's own default temperature is not known here."""
    return sampling.HasField("seed") or (sampling.HasField("temperature") and sampling.temperature == 0)
