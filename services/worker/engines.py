"""Which engine the settings ask for. Each is imported only when it is wanted: vLLM takes seconds and may be missing."""

from typing import NoReturn

from services.worker.config import Settings
from services.worker.engine import Engine


def make(settings: Settings) -> Engine:
    """An engine that has not started. Raises ImportError where vLLM is wanted and not installed."""
    if settings.worker.engine == "simulated":
        from services.worker.simulated.engine import SimulatedEngine

        return SimulatedEngine(settings.worker, settings.simulated)
    from services.worker.vllm_engine import environment

    environment.prepare(settings.worker.num_threads, settings.cluster.host if settings.worker.num_nodes > 1 else "")
    environment.preload()
    from services.worker.vllm_engine.engine import VllmEngine

    return VllmEngine(settings.worker, settings.kvpool)


def compute(settings: Settings) -> NoReturn:
    """Compute for an engine whose head is on another node. Ends when the head does."""
    from services.worker.vllm_engine import nodes

    nodes.compute(settings.worker, settings.kvpool)


def load(engine: Engine) -> None:
    """Load the model now, if the engine can do so before there is an event loop."""
    if (load_now := getattr(engine, "load", None)) is not None:
        load_now()
