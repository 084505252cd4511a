"""Record: what is known of one call.

A mask has one bit per call of the program, by their indices.
"""

from dataclasses import dataclass

from services.workflow.structure.seen import Seen

MAX_CALLS = 512
"""Of a program, the last so many to twice as many are known."""


@dataclass(slots=True, eq=False)
class Record:
    """A call."""

    call_id: str
    index: int
    agent: str
    role: str
    shown: str
    """The role, and what the prompt begins with if the role is the agent's name."""
    node: str
    prompt_tokens: int
    look: str | bytes = ""
    """What tells it from calls of other roles within its program: the agent's name, else its system prompt."""
    parents: tuple["Record", ...] = ()
    predecessor: "Record | None" = None
    turn: int = 0
    behind: int = 0
    """All that it descends from, itself included."""
    chain: int = 0
    """Itself and its predecessors."""
    fork: int = 0
    """The parents of its chain's first call."""
    num_children: int = 0
    """Calls that waited for it and did not fail."""
    begun_at: int = 0
    """Ends of calls that the program had seen before."""
    root_begun_at: int = 0
    """When its chain's first call began."""
    ended_at: int = -1
    """-1: it runs."""
    continued_at: int = -1
    tokens: int = 0
    """Prompt and output."""
    failed: bool = False
    asked_tools: bool = False
    extended: bool = False
    """It is somebody's predecessor."""
    output: int = 0
    """Hash of its output."""

    followers: tuple[str, ...] = ()
    """Nodes of the calls that waited for it."""
    seen: Seen | None = None
    """What was said of it."""

    @property
    def bit(self) -> int:
        return 1 << self.index
