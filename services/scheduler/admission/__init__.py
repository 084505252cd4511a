"""Admissions: which programs may hold KV. Each file here is one policy, by its name; keywords are its settings.

A policy weighs what programs hold and says whether one more fits; it owns nothing. Programs pause between calls only.
"""

import sys
from typing import Protocol, cast

from services.common import policies


class Admission(Protocol):
    """Weighs."""


def names() -> list[str]:
    """The policies there are."""
    return policies.names(sys.modules[__name__])


def load(name: str, **params: float) -> Admission:
    """The policy of that name. Raises ValueError for an unknown name, an unknown parameter or a bad value."""
    return cast("Admission", policies.load(sys.modules[__name__], name, params))
