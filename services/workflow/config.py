"""Settings of the workflow service."""

from pydantic import BaseModel, ConfigDict, Field

from services.common.config import ClusterSection, RegistrySection, Section, StateSection, TelemetrySection, TlsSection


class WorkflowSection(Section):
    """Learns from the call log what programs do next, and tells schedulers and KV pools."""

    enabled: bool = True
    """Whether `python -m services` runs one. Everything works without it, and knows less."""
    port: int = Field(default=0, ge=0, le=65535)
    """0: any free port."""
    snapshot_seconds: float = Field(default=30.0, gt=0)
    """How often what was learned is written to the state store; what is older than that need not be learned again from
    the log after a restart."""


class Settings(BaseModel):
    """What a workflow service reads."""

    model_config = ConfigDict(frozen=True)

    cluster: ClusterSection = ClusterSection()
    tls: TlsSection = TlsSection()
    registry: RegistrySection = RegistrySection()
    state: StateSection = StateSection()
    telemetry: TelemetrySection = TelemetrySection()
    workflow: WorkflowSection = WorkflowSection()
