"""Why a call finds in its worker's cache what it finds there: the scheduler notes it, the workflow service explains."""

from dataclasses import dataclass
from typing import Literal

Cause = Literal["", "evicted", "moved", "worker_lost"]


@dataclass(frozen=True, slots=True)
class CacheNote:
    """Of one placement, as in workflow.proto. Tokens are those of the call's prompt."""

    expected_tokens: int = 0
    """In the worker's cache, or brought there."""
    lost_tokens: int = 0
    """That the program's earlier calls had on some worker, and that were not expected."""
    cause: Cause = ""
    """What became of most of them. "moved": they are on a worker that was not chosen."""
    worker_id: str = ""
    """That had them."""
    by_program: str = ""
    """Evicted when this program's call had come to the worker; empty: not known."""
    paused_seconds: float = 0.0
    """In the lobby."""


NO_NOTE = CacheNote()
