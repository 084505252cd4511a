"""What the connector is told: vLLM carries it as the connector's extra configuration."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.config import KVPoolSection


@dataclass(frozen=True, slots=True)
class ConnectorConfig:
    """Plain values, for they travel between processes."""

    address: str
    """Of the pool, for gRPC."""
    pool_model: str
    """The model's name in its namespace."""
    revision: str
    """Of the model; empty: unknown, so its KV cannot be shared."""
    acquire_seconds: float
    lease_seconds: float
    reservation_seconds: float
    retain_seconds: float

    def extra(self) -> dict[str, Any]:
        """For `KVTransferConfig.kv_connector_extra_config`."""
        return dataclasses.asdict(self)


def connector_config(section: KVPoolSection, pool_model: str, revision: str) -> ConnectorConfig:
    """From the settings."""
    return ConnectorConfig(
        address=f"unix:{Path(section.directory).absolute() / 'pool.sock'}",
        pool_model=pool_model,
        revision=revision,
        acquire_seconds=section.acquire_seconds,
        lease_seconds=section.lease_seconds,
        reservation_seconds=section.reservation_seconds,
        retain_seconds=section.retain_seconds,
    )


def from_extra(extra: Mapping[str, Any]) -> ConnectorConfig:
    """The other way. Raises TypeError for fields that are missing or too many."""
    return ConnectorConfig(**extra)
