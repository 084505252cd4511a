"""How urgent a program's calls are to their user."""

from enum import IntEnum


class ServiceClass(IntEnum):
    """The numbers are those of the wire."""

    INTERACTIVE = 1
    DEFAULT = 2
    BATCH = 3
