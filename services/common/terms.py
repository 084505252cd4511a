"""Terms of leaders: an era above, a revision of etcd below. Eras go up one by one, when etcd has lost its data."""

from typing import Final

ERA_BITS: Final = 32
_ERAS_AHEAD: Final = 1000


def plausible(said: int, known: int) -> bool:
    """Whether a term that a peer names can be, for one who knows of `known`: who could name the last of all terms would
    leave none for those who come after."""
    return 0 <= said >> ERA_BITS <= (known >> ERA_BITS) + _ERAS_AHEAD
