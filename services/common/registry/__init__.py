"""The registry: which processes there are and which of them leads, kept in etcd.

`connect` gives a Registry. `serve_embedded` (in embedded.py) is an etcd stand-in for one machine.
"""

from services.common.registry.connection import EtcdError, Unavailable
from services.common.registry.directory import Registry
from services.common.registry.election import Leader, Leadership
from services.common.registry.in_turn import InTurn
from services.common.registry.membership import Member
from services.common.registry.opening import connect

__all__ = ["EtcdError", "InTurn", "Leader", "Leadership", "Member", "Registry", "Unavailable", "connect"]
