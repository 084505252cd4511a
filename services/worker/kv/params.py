"""What a call's KV is about, on its way from the worker into the engine and back.

It travels as vLLM's `kv_transfer_params`, which are plain values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from legato.v1 import kv_pb2, worker_pb2

DESCRIBE = "describe"
"""The key in a request's parameters that asks for a description of the engine's KV in its last output."""
NAMESPACE_ID = "namespace_id"
BLOCK_BYTES = "block_bytes"
NUM_FAILED_TOKENS = "num_failed_tokens"
"""Keys of what the engine says with a request's last output; the last: tokens that were to be loaded and were not."""


@dataclass(frozen=True, slots=True)
class CallParams:
    """A call's KV as the connector needs it."""

    user: kv_pb2.KVUser
    replica: kv_pb2.KVReplica | None = None
    num_expected: int = 0
    """Leading blocks that another worker is saving right now."""
    prefetch_lease_id: str = ""
    retain_seconds: float | None = None
    """None: as the settings say."""
    describe: bool = False


def pack(start: worker_pb2.StartCall) -> dict[str, Any]:
    """For `SamplingParams.extra_args["kv_transfer_params"]`."""
    identity, plan = start.identity, start.kv
    params: dict[str, Any] = {
        "program_id": identity.program_id,
        "tenant": identity.tenant,
        "agent": identity.agent,
        "thread": identity.thread,
    }
    if plan.arriving:
        params["num_expected"] = plan.handle.num_blocks
    if plan.lease.lease_id:
        params["prefetch_lease_id"] = plan.lease.lease_id
    if plan.HasField("retain"):
        params["retain_seconds"] = plan.retain.ToNanoseconds() / 1e9
    if plan.replica.pool_id:
        replica = plan.replica
        params["replica"] = [replica.pool_id, replica.data_address, replica.num_blocks, replica.tier]
    return params


def unpack(params: Mapping[str, Any] | None) -> CallParams:
    """The other way; no parameters: a call of nobody."""
    params = params or {}
    replica = None
    if "replica" in params:
        pool_id, data_address, num_blocks, tier = params["replica"]
        replica = kv_pb2.KVReplica(pool_id=pool_id, data_address=data_address, num_blocks=num_blocks, tier=tier)
    return CallParams(
        user=kv_pb2.KVUser(**{name: params.get(name, "") for name in ("program_id", "tenant", "agent", "thread")}),
        replica=replica,
        num_expected=params.get("num_expected", 0),
        prefetch_lease_id=params.get("prefetch_lease_id", ""),
        retain_seconds=params.get("retain_seconds"),
        describe=params.get(DESCRIBE, False),
    )
