"""POST /v1/completions: the request."""

from collections.abc import Sequence
from typing import Any, cast

from pydantic import Field

from services.gateway.openai.fields import Generation, parse, refuse
from services.gateway.request import Request

MAX_PROMPTS = 128
MAX_TOP_LOGPROBS = 20
DEFAULT_MAX_TOKENS = 16
"""As in the OpenAI API."""


class CompletionRequest(Generation):
    prompt: Any
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    def requests(self) -> list[Request]:
        """One for each prompt, in no dialect. Raises Failure."""
        for field in ("echo", "suffix"):
            if getattr(self, field):
                raise refuse(field, "is not supported")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise refuse("best_of", "must equal n")
        sampling = self.sampling_message(self.max_tokens or DEFAULT_MAX_TOKENS, self.logprobs)
        constraint = self.constraint()
        return [
            Request(
                model=self.model,
                source=prompt,
                sampling=sampling,
                constraint=constraint,
                urgency=self.urgency(),
                incremental=bool(self.stream),
                choices=self.n or 1,
            )
            for prompt in self._prompts()
        ]

    def _prompts(self) -> Sequence[str | Sequence[int]]:
        """Text, token ids, or a list of either. Raises Failure."""
        prompt: object = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if not isinstance(prompt, list) or not prompt:
            raise refuse(
                "prompt", "must be text, token ids, or a list of texts or of lists of token ids, and not empty"
            )
        items = cast("list[Any]", prompt)
        if isinstance(items[0], int):
            return [_tokens(items, "prompt")]
        if len(items) > MAX_PROMPTS:
            raise refuse("prompt", f"at most {MAX_PROMPTS} prompts, got {len(items)}")
        return [item if isinstance(item, str) else _tokens(item, f"prompt[{i}]") for i, item in enumerate(items)]


def _tokens(value: Any, field: str) -> list[int]:
    if not isinstance(value, list) or not value:
        raise refuse(field, "must be text or a list of token ids that is not empty")
    items = cast("list[Any]", value)
    if not all(type(item) is int and 0 <= item < 2**31 for item in items):
        raise refuse(field, "must hold nothing but token ids")
    return items


def parse_completion(body: bytes) -> tuple[CompletionRequest, list[Request]]:
    """What was asked, and the same in no dialect, prompt by prompt. Raises Failure."""
    asked = parse(CompletionRequest, body)
    return asked, asked.requests()
