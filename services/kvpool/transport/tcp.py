"""Pools copy over TCP sockets, with threads that block in the kernel (bench/kv/transport.py compares it with the plain
way; Mooncake's own TCP moves less than half as much).
"""

from services.kvpool.transport.lending import serve
from services.kvpool.transport.pulling import peers

__all__ = ["peers", "serve"]
