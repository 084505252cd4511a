"""Settings of the KV pool."""

import re
import socket

from pydantic import BaseModel, ConfigDict, field_validator

from services.common.config import ClusterSection, KVPoolSection, RegistrySection, TelemetrySection, TlsSection
from services.kvpool import retention
from services.kvpool.limits import Limits

_PREFETCH_CHANCE = 0.1
"""Hermes' (algorithms.md 1.16)."""


class Settings(BaseModel):
    """What a pool reads."""

    model_config = ConfigDict(frozen=True)

    cluster: ClusterSection = ClusterSection()
    tls: TlsSection = TlsSection()
    registry: RegistrySection = RegistrySection()
    telemetry: TelemetrySection = TelemetrySection()
    kvpool: KVPoolSection = KVPoolSection()

    @field_validator("kvpool")
    @classmethod
    def _fits(cls, section: KVPoolSection) -> KVPoolSection:
        retention.load(section.retention, **section.retention_params)
        if not re.fullmatch(r"[\w.-]{0,100}", section.name, re.ASCII):
            raise ValueError("name: at most 100 letters, digits, dots, dashes and underscores")
        return section


def pool_id(section: KVPoolSection) -> str:
    """Unique in the cluster, the same after a restart."""
    return section.name or socket.gethostname()


def limits(section: KVPoolSection) -> Limits:
    """What the core needs of this."""
    return Limits(
        acquire_seconds=section.acquire_seconds,
        lease_seconds=section.lease_seconds,
        reservation_seconds=section.reservation_seconds,
        prefetch_chance=_PREFETCH_CHANCE if section.prefetch else 0.0,
    )
