"""How urgency is told to an engine: one number, smaller first.

A call's priority comes first, and inside it the *level*, which is the ordering's: 0 first. So each priority has a group
of `LEVELS` numbers of its own, in which an engine may lower a call that runs long.
"""

from typing import Final

LEVELS: Final = 64


def engine_priority(priority: int, level: int) -> int:
    """What the engine is told. `priority`: larger is more urgent. `level`: from 0, below `LEVELS`."""
    return level - LEVELS * priority


def level(engine_priority: int) -> int:
    """The level in what the engine is told."""
    return engine_priority % LEVELS
