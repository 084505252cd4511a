"""Settings of the simulated engine."""

from pydantic import Field, field_validator

from services.common.config import Section
from services.worker.simulated import cost


class SimulatedSection(Section):
    """An engine without a GPU: real batching and caching, computed step times. Batch sizes come from [worker]."""

    profile: str = "tiny-cpu"
    """Model and device to imitate: a name in services/worker/simulated/profiles.json, or the path of a file (.json)
    that `python -m services.worker.calibrate` wrote."""
    speed: float = Field(default=1.0, gt=0)
    """Simulated seconds in a second; 1: real time."""
    kv_tokens: int = Field(default=0, ge=0)
    """Capacity of the KV cache in tokens; 0: the profile's."""
    pool_id: str = ""
    """Name of a KV pool ([kvpool] name) that the engine pretends to use: it keeps nothing there and has whatever KV a
    placement's plan names at once. Empty: none, and no worker hands calls over."""
    mean_output_tokens: float = Field(default=128.0, gt=0)
    """Mean length of an output that nothing else bounds."""

    @field_validator("profile")
    @classmethod
    def _known(cls, profile: str) -> str:
        try:
            cost.load_profile(profile)
        except KeyError:
            raise ValueError(f"known profiles: {', '.join(cost.names())}") from None
        except OSError as error:
            raise ValueError(f"no profile can be read there: {error}") from None
        return profile
