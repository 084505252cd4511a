"""Settings of the scheduler."""

from dataclasses import fields
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.common.config import ClusterSection, RegistrySection, Section, StateSection, TelemetrySection, TlsSection
from services.scheduler import policy
from services.scheduler.limits import Limits
from services.scheduler.policy import Policy


class SchedulerSection(Section):
    """Which call runs next, and where."""

    port: int = Field(default=0, ge=0, le=65535)
    """0: any free port."""
    policy: str = "legato"
    """Which calls go next, where, and which programs hold KV: a file of services/scheduler/policies."""
    ordering: str = ""
    """Which calls go next: a file of services/scheduler/ordering; empty: the policy's."""
    ordering_params: dict[str, float] = Field(default_factory=dict)
    """Keywords of the ordering, if one is named."""
    placement: str = ""
    """Where: a file of services/scheduler/placement; empty: the policy's."""
    placement_params: dict[str, float] = Field(default_factory=dict)
    """Keywords of the placement, if one is named."""
    admission: str = ""
    """Which programs hold KV: a file of services/scheduler/admission; empty: the policy's."""
    admission_params: dict[str, float] = Field(default_factory=dict)
    """Keywords of the admission, if one is named."""
    tenant_weights: dict[str, float] = Field(default_factory=dict)
    """Shares of tenants beside one another when all want more than there is; 1 for those that are not named."""
    max_queued_calls: int = Field(default=20_000, ge=1)
    """Calls that wait at most; more are refused with QUEUE_FULL and a time to come back."""
    max_queued_per_program: int = Field(default=0, ge=0)
    """The same for each program; 0: no bound of its own."""
    max_queued_per_tenant: int = Field(default=0, ge=0)
    """The same for each tenant; 0: no bound of its own."""
    lookahead_calls: int = Field(default=1, ge=0)
    """Calls that an engine gets beyond its batch, so that a slot that falls free is filled at once."""
    scan_limit: int = Field(default=64, ge=1)
    """Calls of a model that placement looks at, or four for each worker if that is more: how far a call may be
    overtaken by ones that suit a free worker better."""
    max_attempts: int = Field(default=8, ge=1)
    """A call that lost this many workers is refused, for it may be what kills them."""
    no_worker_grace_seconds: float = Field(default=15.0, ge=0)
    """How long calls wait for a worker of their model when all are gone."""
    max_programs: int = Field(default=20_000, ge=1)
    """Programs remembered that have no call right now; beyond it the longest idle one ends."""
    kept_programs: int = Field(default=2_000, ge=0)
    """Ended programs that can still be listed."""
    program_idle_seconds: float = Field(default=3600.0, gt=0)
    """A program that makes no call for so long has ended."""
    reject_unreachable_deadlines: bool = False
    """Whether calls of programs that cannot be complete by their deadline, even if all goes well, are refused."""
    assumed_output_tokens: int = Field(default=256, ge=1)
    """Length of an output before any was seen."""
    assumed_step_seconds: float = Field(default=0.03, gt=0)
    """Time of a decode step of a worker that has not reported one."""
    assumed_prefill_tokens_per_second: float = Field(default=8_000.0, gt=0)
    """Prefill speed of a worker that has not reported one."""
    assumed_load_bytes_per_second: float = Field(default=5e9, gt=0)
    """Speed from a KV pool's shared memory into an engine, while the pool has measured none."""
    assumed_ssd_bytes_per_second: float = Field(default=1e9, gt=0)
    """The same from its disk."""
    assumed_pull_bytes_per_second: float = Field(default=1e9, gt=0)
    """The same from another host's pool."""
    decode_delay_weight: float = Field(default=1.0, ge=0)
    """What a second by which a prefill delays another call's decoding counts for, beside a second of the prefilled
    call's own. 1: all calls' seconds are equal; 0: running decodes are not spared; more: they are spared at the price
    of a later first token."""
    save_seconds: float = Field(default=1.0, gt=0)
    """How often changed programs are written to the state store; so much service is forgotten at worst."""

    @model_validator(mode="after")
    def _policy_exists(self) -> Self:
        for slot in ("ordering", "placement", "admission"):
            if getattr(self, f"{slot}_params") and not getattr(self, slot):
                raise ValueError(f"{slot}_params without {slot}: of which?")
        self.load_policy()
        return self

    def load_policy(self) -> Policy:
        """As the settings say."""
        overrides = {
            "ordering": (self.ordering, self.ordering_params),
            "placement": (self.placement, self.placement_params),
            "admission": (self.admission, self.admission_params),
        }
        return policy.load(self.policy, overrides)

    def limits(self) -> Limits:
        """What the core needs of this."""
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(Limits)}
        return Limits(**values)


class Settings(BaseModel):
    """What a scheduler process reads."""

    model_config = ConfigDict(frozen=True)

    cluster: ClusterSection = ClusterSection()
    tls: TlsSection = TlsSection()
    registry: RegistrySection = RegistrySection()
    state: StateSection = StateSection()
    telemetry: TelemetrySection = TelemetrySection()
    scheduler: SchedulerSection = SchedulerSection()
