"""Settings of the one-machine stack: those of all its services."""

from services.common.config import KVPoolSection
from services.gateway.config import Settings as GatewaySettings
from services.kvpool.config import Settings as KVPoolSettings
from services.scheduler.config import Settings as SchedulerSettings
from services.worker.config import Settings as WorkerSettings
from services.workflow.config import Settings as WorkflowSettings


class Settings(GatewaySettings, SchedulerSettings, WorkflowSettings, WorkerSettings, KVPoolSettings):
    """Every section of legato.toml."""


def pool_directory(settings: Settings, private: str) -> str:
    """Where the stack's pool meets its workers: where the settings say, and `private` where they say nothing, so that
    two stacks on one machine keep apart."""
    configured = settings.kvpool.directory
    return private if configured == KVPoolSection().directory else configured
