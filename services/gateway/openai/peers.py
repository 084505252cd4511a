"""Fields of requests that are not OpenAI's: those of other routers' clients, which work unchanged.

What says how urgent a call is must be well formed, like every field; what says whose it is need not be.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from services.gateway.urgency import LONGEST_DEADLINE_SECONDS, MOST_OUTPUT_TOKENS, MOST_PRIORITY


class Body(BaseModel):
    """Base of all request models."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


Priority = Annotated[int, Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY)]
OutputLength = Annotated[int, Field(ge=1, le=MOST_OUTPUT_TOKENS)]


class AgenticContext(Body):
    """Of vLLM Router's clients."""

    deadline_seconds: float | None = Field(default=None, gt=0, le=LONGEST_DEADLINE_SECONDS)
    expected_output_length: OutputLength | None = None
    priority: Priority | None = None
    """Travels in vLLM's extension, so it is taken as vLLM has it: smaller runs first."""
    root_program_id: Any = None
    program_id: Any = None
    parent_program_id: Any = None
    task_id: Any = None
    session_id: Any = None
    agent_id: Any = None
    agent_role: Any = None
    step_id: Any = None


class VllmXargs(Body):
    agentic_context: AgenticContext | None = None


class AgentHints(Body):
    """Of Dynamo's clients."""

    priority: Priority | None = None
    """Larger runs first."""
    strict_priority: Priority | None = None
    """A tier: all of a larger one run first."""
    osl: OutputLength | None = None


class Nvext(Body):
    agent_hints: AgentHints | None = None
    session_control: Any = None


class Identifying(Body):
    """Fields that may say whose call it is. Others own them, so what says it is not refused, whatever shape it has; the
    two objects that say how urgent the call is, too, must be objects."""

    program_id: Any = None
    metadata: Any = None
    litellm_session_id: Any = None
    session_id: Any = None
    session_params: Any = None
    prompt_cache_key: Any = None
    conversation: Any = None
    previous_response_id: Any = None
    vllm_xargs: VllmXargs | None = None
    nvext: Nvext | None = None
