"""What a simulated engine has to say to a prompt: worked out here, far from any fault."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from legato.v1 import call_pb2, worker_pb2
from services.gateway.render import load_model
from services.gateway.request import Chat, Request
from services.worker.simulated import tokens
from services.worker.simulated.vocabulary import vocabulary

_CACHE_BYTES = 1 << 20
_BLOCK_SIZE = 32
_MEAN_TOKENS = 128.0


@dataclass(frozen=True, slots=True)
class Message:
    """One of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Question:
    """A call as a program means it."""

    messages: Sequence[Message]
    max_tokens: int
    seed: int | None = None
    """None: greedy."""
    choices: Sequence[str] = ()
    """The output is one of these, if there are any."""


class Reference:
    """One model's answers."""

    def __init__(self, model: str, model_path: Path, max_model_len: int) -> None:
        description = worker_pb2.WorkerDescription(
            model=model, model_path=str(model_path), max_model_len=max_model_len, block_size=_BLOCK_SIZE
        )
        self._model = load_model(description, _CACHE_BYTES, _CACHE_BYTES, verify_every=0)
        self._vocabulary = vocabulary(str(model_path))
        self._max_model_len = max_model_len

    def answer(self, question: Question) -> tuple[str, int]:
        """The text and its number of tokens."""
        sampling = call_pb2.Sampling(temperature=0.0, max_tokens=question.max_tokens, ignore_eos=not question.choices)
        if question.seed is not None:
            sampling.temperature, sampling.seed = 1.0, question.seed
        constraint = call_pb2.Constraint()
        if question.choices:
            constraint.choice.choices.extend(question.choices)
        chat = Chat([{"role": message.role, "content": message.content} for message in question.messages])
        request = Request(self._model.name, chat, sampling, constraint)
        prompt = self._model.prompt(request, "").token_ids
        start = worker_pb2.StartCall(sampling=sampling, constraint=constraint)
        plan = tokens.plan(start, prompt, self._vocabulary, self._max_model_len, _MEAN_TOKENS)
        return "".join(plan.pieces), len(plan.ids)
