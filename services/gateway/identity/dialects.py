"""How harnesses and other routers' clients say whose call it is: one function for each dialect, in DIALECTS.

Each looks at headers (of any case) and at the body's foreign fields, and returns a Claim or None where its dialect is
not spoken. Nothing that they find is refused; ids are as they were said. A new dialect is one more function.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import unquote

from services.gateway.openai.peers import AgenticContext, Identifying

_LONGEST_JSON = 4096
_USER_SESSION: Final = "_session_"
_VENDOR_SESSION: Final = re.compile(r"x-(?!.*parent)[a-z0-9\-]+-session-id")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a dialect says. Empty: nothing."""

    source: str
    session: str
    """The chain of calls that this is one of: a program, or a part of one."""
    program: str = ""
    """That the session belongs to."""
    parent: str = ""
    """The session that spawned it."""
    thread: str = ""
    """Of the session, where that is not its own."""
    agent: str = ""
    step: str = ""
    final: bool = False
    """The session ends with this call."""


Dialect = Callable[[Mapping[str, str], Identifying], Claim | None]


def _agentic_context(headers: Mapping[str, str], body: Identifying) -> Claim | None:
    """vLLM Router's."""
    said = (body.vllm_xargs and body.vllm_xargs.agentic_context) or AgenticContext()
    program, session, agent = _id(said.program_id), _id(said.session_id), _id(said.agent_id)
    root = _id(said.root_program_id)
    chain = program or root or _id(said.task_id) or session
    if not chain:
        return None
    return Claim(
        "agentic-context",
        chain,
        program=root,
        parent=_id(said.parent_program_id),
        thread=agent or (session if session != chain else ""),
        agent=_id(said.agent_role),
        step=_id(said.step_id),
    )


def _dynamo(headers: Mapping[str, str], body: Identifying) -> Claim | None:
    """Dynamo's; `trajectory` is what it called sessions."""
    control = _object(body.nvext.session_control if body.nvext else None)
    for name in ("session", "trajectory"):
        if session := headers.get(f"x-dynamo-{name}-id", ""):
            final = headers.get(f"x-dynamo-{name}-final", "").strip().lower() in ("true", "1")
            return Claim("dynamo", session, parent=headers.get(f"x-dynamo-parent-{name}-id", ""), final=final)
    if session := _id(control.get("session_id")):
        return Claim("dynamo", session, final=control.get("action") == "close")
    return None


def _claude_code(headers: Mapping[str, str], body: Identifying) -> Claim | None:
    session = headers.get("x-claude-code-session-id", "") or _of_user(_object(body.metadata).get("user_id"))
    return Claim("claude-code", session, thread=headers.get("x-claude-code-agent-id", "")) if session else None


def _codex(headers: Mapping[str, str], body: Identifying) -> Claim | None:
    session = headers.get("session-id", "") or headers.get("session_id", "")
    thread = headers.get("thread-id", "")
    if not (session or thread):
        return None
    parent = headers.get("x-codex-parent-thread-id", "")
    agent = headers.get("x-openai-subagent", "")
    if not session:
        return Claim("codex", thread, parent=parent, agent=agent)
    return Claim("codex", session, thread=thread if thread != session else "", agent=agent)


def _opencode(headers: Mapping[str, str], body: Identifying) -> Claim | None:
    parent = headers.get("x-parent-session-id", "")
    session = headers.get("x-opencode-session", "")
    if not session and parent:
        session = headers.get("x-session-id", "") or headers.get("x-session-affinity", "")
    return Claim("opencode", session, parent=parent) if session else None


def _litellm(headers: Mapping[str, str], body: Identifying) -> Claim | None:
    session = headers.get("x-litellm-trace-id", "") or headers.get("x-litellm-session-id", "")
    return Claim("litellm", session, agent=headers.get("x-litellm-agent-id", "")) if session else None


def _session_header(headers: Mapping[str, str], body: Identifying) -> Claim | None:
    """What many call it: llm-d, vLLM Router, Ray, SGLang, and whatever is named x-<vendor>-session-id."""
    for name in ("x-session-id", "x_session_id", "x-session-affinity", "x-override-conversation-id"):
        if session := headers.get(name, ""):
            return Claim("session-header", session)
    for name, session in headers.items():
        if session and _VENDOR_SESSION.fullmatch(name.lower()):
            return Claim("session-header", session)
    return None


def _session_field(headers: Mapping[str, str], body: Identifying) -> Claim | None:
    """ThunderAgent's program_id; LiteLLM's, vLLM's and SGLang's sessions."""
    if program := _id(body.program_id):
        return Claim("program-field", program)
    params = _object(body.session_params)
    session = (
        _id(body.litellm_session_id)
        or _id(_object(body.metadata).get("session_id"))
        or _id(body.session_id)
        or _id(params.get("session_id"))
        or _id(params.get("id"))
    )
    return Claim("session-field", session) if session else None


def _prompt_cache_key(headers: Mapping[str, str], body: Identifying) -> Claim | None:
    key = _id(body.prompt_cache_key)
    return Claim("prompt-cache-key", key) if key else None


def _conversation(headers: Mapping[str, str], body: Identifying) -> Claim | None:
    conversation = _id(body.conversation) or _id(_object(body.conversation).get("id"))
    return Claim("conversation", conversation) if conversation else None


def _baggage(headers: Mapping[str, str], body: Identifying) -> Claim | None:
    """W3C's, in the order in which its keys say what we want to know."""
    if not (text := headers.get("baggage", "")):
        return None
    members = (member.partition(";")[0].partition("=") for member in text.split(","))
    said = {name.strip(): unquote(value.strip()) for name, _, value in members}
    for name in ("legato.program_id", "gen_ai.conversation.id", "session.id"):
        if session := said.get(name, ""):
            return Claim("baggage", session)
    return None


DIALECTS: Final[Sequence[Dialect]] = (
    _agentic_context,
    _dynamo,
    _claude_code,
    _codex,
    _opencode,
    _litellm,
    _session_header,
    _session_field,
    _prompt_cache_key,
    _conversation,
)
"""In order of precedence."""
LAST_DIALECTS: Final[Sequence[Dialect]] = (_baggage,)
"""Behind a response that the request goes on from."""


def claim_of(dialects: Sequence[Dialect], headers: Mapping[str, str], body: Identifying) -> Claim | None:
    """Of the first dialect that is spoken."""
    return next((claim for dialect in dialects if (claim := dialect(headers, body)) is not None), None)


def previous_response(body: Identifying) -> str:
    """The id of the response that the request goes on from; empty: none."""
    return _id(body.previous_response_id)


def _of_user(user: object) -> str:
    """The session in what Claude Code says of its user: JSON, or a name that ends in it."""
    text = _id(user)
    if text.startswith("{") and len(text) <= _LONGEST_JSON:
        try:
            return _id(_object(json.loads(text)).get("session_id"))
        except (ValueError, RecursionError):
            return ""
    _, found, session = text.rpartition(_USER_SESSION)
    return session if found else ""


def _object(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}  # the keys of a JSON object are strings


def _id(value: object) -> str:
    """Text or a number; all else says nothing."""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""
