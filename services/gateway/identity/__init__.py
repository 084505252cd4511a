"""Whose call is it: the one place that knows.

`Resolver` asks the dialects in their order (docs/identity.md), then the content chain; what nobody recognises is a
program of its own. `Identity` is what it finds.
"""

from services.gateway.identity.content_chain import Path
from services.gateway.identity.identity import (
    HEADER,
    MAX_ID_BYTES,
    Identity,
    cache_salt,
    check_label,
    checked_program_id,
    fresh_id,
    from_headers,
    from_message,
)
from services.gateway.identity.resolver import NOTHING_SAID, Resolved, Resolver

__all__ = [
    "HEADER",
    "MAX_ID_BYTES",
    "NOTHING_SAID",
    "Identity",
    "Path",
    "Resolved",
    "Resolver",
    "cache_salt",
    "check_label",
    "checked_program_id",
    "fresh_id",
    "from_headers",
    "from_message",
]
