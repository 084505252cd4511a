"""The cluster that is run and simulated, its settings said once for both."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.worker.config import WorkerSection
from sim.experiment import Setup

_TOKEN_BYTES = 2048
"""KV of the tiny model."""
_SHARED = ("count", "model", "model_path", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "kv_cache_bytes")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers of one shape under a policy."""

    worker: WorkerSection
    policy: str

    def settings(self) -> Mapping[str, object]:
        """Of the real stack."""
        return {
            "worker.engine": self.worker.engine,
            **{f"worker.{name}": getattr(self.worker, name) for name in _SHARED},
            "simulated.kv_tokens": self.worker.kv_cache_bytes // _TOKEN_BYTES,
            "scheduler.policy": self.policy,
            "gateway.http_port": 0,
            "gateway.port": 0,
            "gateway.stream_interval": 8,
            "kvpool.enabled": False,
            "telemetry.log_level": "warning",
        }

    def setup(self, profile: Path, network_seconds: float) -> Setup:
        """Of the simulation. The profile knows the size of the KV cache."""
        worker = self.worker
        return Setup(
            profile=str(profile),
            num_workers=worker.count,
            policy=self.policy,
            block_size=worker.block_size,
            max_num_seqs=worker.max_num_seqs,
            max_num_batched_tokens=worker.max_num_batched_tokens,
            network_seconds=network_seconds,
            report_seconds=worker.report_interval_seconds,
            leap_seconds=0.0,
        )
