"""A model's chat template, rendered as transformers renders it.

This uses transformers' renderer but not its tokenizers: importing those imports torch wherever it is installed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jinja2
from transformers.utils import chat_template_utils

from services.common.errors import Failure, Reason

_render = cast(
    "Callable[..., tuple[list[str], object]]",
    chat_template_utils.render_jinja_template,  # pyright: ignore[reportUnknownMemberType] (half typed, and that wrongly)
)
_OURS = frozenset(("messages", "conversations", "tools", "documents", "chat_template", "add_generation_prompt"))
_MODES = frozenset(("return_assistant_tokens_mask", "continue_final_message"))
_TOOL_TEMPLATE = "tool_use"


class ChatTemplate:
    """Turns conversations into text. `special_tokens`: what the template may call them -> their text."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        self._sources = sources
        self._special_tokens = special_tokens

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> str:
        """The prompt up to where the assistant's answer begins. Raises Failure when the template refuses."""
        if taken := (_OURS | _MODES).intersection(variables):
            name = sorted(taken)[0]
            raise Failure(Reason.INVALID_ARGUMENT, f"{name} is no template variable", f"chat_template_kwargs.{name}")
        source = self._sources.get(_TOOL_TEMPLATE if tools else "default") or self._sources.get("default")
        if source is None:
            raise Failure(Reason.INVALID_ARGUMENT, "this model has no chat template; use completions", "messages")
        try:
            rendered, _ = _render(
                conversations=[messages],
                tools=list(tools) or None,
                chat_template=source,
                add_generation_prompt=True,
                **{**self._special_tokens, **variables},
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            message = f"the model's chat template cannot take this conversation: {error}"
            raise Failure(Reason.INVALID_ARGUMENT, message, "messages") from None
        return rendered[0]


def load_template(model_path: Path) -> ChatTemplate:
    """The template of the model in that directory: chat_template.jinja, else the one in tokenizer_config.json."""
    config_file = model_path / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8")) if config_file.exists() else {}
    special_tokens = {
        name: text for name, value in config.items() if name.endswith("_token") and (text := _text(value))
    }
    return ChatTemplate(_sources(model_path, config.get("chat_template")), special_tokens)


def _sources(model_path: Path, configured: Any) -> dict[str, str]:
    sources: dict[str, str] = {}
    if isinstance(configured, str):
        sources["default"] = configured
    elif isinstance(configured, list):
        sources = {item["name"]: item["template"] for item in cast("list[dict[str, str]]", configured)}
    file = model_path / "chat_template.jinja"
    if file.exists():
        sources["default"] = file.read_text(encoding="utf-8")
    for extra in (model_path / "additional_chat_templates").glob("*.jinja"):
        sources[extra.stem] = extra.read_text(encoding="utf-8")
    return sources


def _text(value: Any) -> str:
    """A special token as configured: its text, or an object that holds it."""
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get("content")
    return value if isinstance(value, str) else ""
