"""One served model as the gateway knows it: what it takes, and how requests become prompts for it."""

import logging
from array import array
from dataclasses import dataclass
from pathlib import Path

from legato.v1 import worker_pb2
from services.common.errors import Failure, Reason
from services.common.hash_cache import BlockHashes
from services.gateway import metrics
from services.gateway.request import Chat, Request, Resume, Source
from services.gateway.template import ChatTemplate, load_template
from services.gateway.tokenizer import CachingTokenizer, load_tokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an engine is given. `block_hashes`: the low 64 bits of each full block's, under the tenant's salt; what is
    resumed of the output counts there, too."""

    token_ids: "array[int]"
    block_hashes: "array[int]"
    max_tokens: int
    """Most tokens of output: what was asked for, as far as the context has room."""
    salt: str


class Model:
    """A model. Its methods take milliseconds for long prompts and may be called in threads."""

    def __init__(
        self,
        description: worker_pb2.WorkerDescription,
        tokenizer: CachingTokenizer,
        template: ChatTemplate,
        hashes: BlockHashes,
        verify_every: int,
    ) -> None:
        self.name = description.model
        self.max_model_len = description.max_model_len
        self._tokenizer = tokenizer
        self._template = template
        self._hashes = hashes
        self._verify_every = verify_every
        self._num_rendered = 0

    def prompt(self, request: Request, salt: str) -> Prompt:
        """Render, tokenize and hash. Raises Failure for what the model cannot take."""
        token_ids = self._token_ids(request.source)
        room = self.max_model_len - len(token_ids)
        if room < 1:
            raise self._too_long(len(token_ids), request.source)
        self._check_bias(request)
        asked = request.sampling.max_tokens if request.sampling.HasField("max_tokens") else room
        max_tokens = min(asked, room)
        known = token_ids if request.resume is None else token_ids + self._resumed(request.resume, max_tokens)
        return Prompt(token_ids, self._hashes.of(known, salt), max_tokens, salt)

    def _token_ids(self, source: Source) -> "array[int]":
        if isinstance(source, Chat):
            text = self._template.render(source.messages, source.tools, source.variables)
            token_ids = self._encode(text)
        elif isinstance(source, str):
            token_ids = self._tokenizer.encode_whole(source, add_special_tokens=True)
        else:
            token_ids = array("I", source)
            if token_ids and max(token_ids) >= self._tokenizer.vocab_size:
                message = f"prompt: token ids of {self.name} are below {self._tokenizer.vocab_size}"
                raise Failure(Reason.INVALID_ARGUMENT, message, "prompt")
        if not token_ids:
            raise Failure(Reason.INVALID_ARGUMENT, "the prompt is empty", _field(source))
        return token_ids

    def _encode(self, text: str) -> "array[int]":
        token_ids = self._tokenizer.encode(text)
        self._num_rendered += 1
        if self._verify_every and self._num_rendered % self._verify_every == 0:
            whole = self._tokenizer.encode_whole(text)
            if whole != token_ids:
                _log.error("tokenizing in parts differs from tokenizing at once for model %s", self.name)
                metrics.TOKENIZER_MISMATCHES.inc()
                return whole
        return token_ids

    def _resumed(self, resume: Resume, max_tokens: int) -> "array[int]":
        if len(resume.token_ids) > max_tokens:
            message = f"resume.token_ids: at most max_tokens ({max_tokens}), got {len(resume.token_ids)}"
            raise Failure(Reason.INVALID_ARGUMENT, message, "resume.token_ids")
        token_ids = array("I", resume.token_ids)
        if token_ids and max(token_ids) >= self._tokenizer.vocab_size:
            message = f"resume.token_ids: token ids of {self.name} are below {self._tokenizer.vocab_size}"
            raise Failure(Reason.INVALID_ARGUMENT, message, "resume.token_ids")
        return token_ids

    def _check_bias(self, request: Request) -> None:
        if any(token >= self._tokenizer.vocab_size for token in request.sampling.logit_bias):
            message = f"logit_bias: token ids of {self.name} are below {self._tokenizer.vocab_size}"
            raise Failure(Reason.INVALID_ARGUMENT, message, "logit_bias")

    def _too_long(self, num_tokens: int, source: Source) -> Failure:
        message = (
            f"This model's maximum context length is {self.max_model_len} tokens, "
            f"but the prompt has {num_tokens} tokens and at least 1 must be left for the output. "
            "Please shorten the prompt."
        )
        return Failure(Reason.CONTEXT_LENGTH_EXCEEDED, message, _field(source))


def load_model(
    description: worker_pb2.WorkerDescription, segment_cache_bytes: int, hash_cache_bytes: int, verify_every: int
) -> Model:
    """Read what is needed from the model's directory. Takes a moment. Raises OSError or ValueError."""
    path = Path(description.model_path)
    return Model(
        description,
        load_tokenizer(path, segment_cache_bytes),
        load_template(path),
        BlockHashes(description.block_size, hash_cache_bytes),
        verify_every,
    )


def _field(source: Source) -> str:
    return "messages" if isinstance(source, Chat) else "prompt"
