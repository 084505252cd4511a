"""Settings of the one-machine stack: those of all its services."""

from services.gateway.config import Settings as GatewaySettings
from services.scheduler.config import Settings as SchedulerSettings
from services.worker.config import Settings as WorkerSettings


class Settings(GatewaySettings, SchedulerSettings, WorkerSettings):
    """Every section of legato.toml."""
