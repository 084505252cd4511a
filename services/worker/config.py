"""Settings of the worker."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from services.common.config import ClusterSection, KVPoolSection, RegistrySection, Section, TelemetrySection, TlsSection
from services.common.urgency import LEVELS
from services.worker.preemption import Preemption
from services.worker.simulated.config import SimulatedSection

_LAST_PORT = 65535


class WorkerSection(Section):
    """A worker and its engine. Cache size and speed of the simulated engine come from its profile."""

    engine: Literal["vllm", "simulated"] = "vllm"
    """What generates tokens."""
    count: int = Field(default=1, ge=1, le=1024)
    """How many workers `python -m services.worker` runs."""
    port: int = Field(default=0, ge=0, le=65535)
    """gRPC port of the first worker, the next ones follow; 0: any free port for each."""
    role: Literal["both", "prefill", "decode"] = "both"
    """Which half of a call it is for, at first; a decode worker runs whole calls too where that is faster."""
    model: str = "tiny-llama"
    """The name that clients use."""
    model_path: str = "models/tiny-llama"
    """Directory with weights, tokenizer and chat template."""
    tool_parser: str = "hermes"
    """vLLM's name for the way in which the model writes tool calls; empty: it does not."""
    reasoning_parser: str = ""
    """vLLM's name for the way in which the model marks its reasoning; empty: it does not."""
    tool_strict_level: Literal["auto", "function", "parameter"] = "auto"
    """What grammars hold tool calls to: auto: what the call asks for; function: always the form of a call; parameter:
    always the schema of its arguments too."""
    max_model_len: int = Field(default=0, ge=0)
    """Longest prompt plus output in tokens; 0: what the model allows."""
    max_num_seqs: int = Field(default=32, ge=1)
    """Most sequences in one engine step."""
    max_num_batched_tokens: int = Field(default=2048, ge=32)
    """Most tokens in one engine step."""
    preemption: bool = False
    """A waiting call may take the place of running ones of worse priority. Needs the vLLM that this was written for;
    with another, and when off, a call that runs is left alone until the KV cache is full."""
    preemption_margin: int = Field(default=1, ge=1)
    """By how much the priority must be worse."""
    preemption_min_tokens: int = Field(default=32, ge=1)
    """A call generates so many tokens each time it runs before it may be preempted for another."""
    quanta: tuple[int, ...] = ()
    """With `preemption`, a call of level i falls to i + 1 when it has generated so many tokens there: fewer than 64."""
    block_size: int = Field(default=32, ge=1)
    """Tokens per KV block. vLLM on a CPU takes multiples of 32 only."""
    kv_cache_bytes: int = Field(default=0, ge=0)
    """Memory for KV blocks; 0: 128 MiB on a CPU, what `gpu_memory_utilization` leaves on a GPU."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of the GPU's memory that the engine may take."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """Over how many GPUs each layer of one engine is spread."""
    pipeline_parallel_size: int = Field(default=1, ge=1)
    """Over how many such groups of GPUs the layers of one engine are spread."""
    num_nodes: int = Field(default=1, ge=1)
    """Over how many nodes one engine is spread. Such engines have no part in KV pools."""
    node_rank: int = Field(default=0, ge=0)
    """Which of its engine's nodes this is; 0: the head, which is the worker."""
    head_address: str = ""
    """Of the engine's head, host:port, where its other nodes meet it; vLLM takes the port after that one."""
    enforce_eager: bool = False
    """Run without compilation and CUDA graphs: slower, but up sooner. Always so on a CPU."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Data type of weights and KV; auto: the model's own."""
    seed: int = 0
    """Seed of sampling for calls that bring none."""
    num_threads: int = Field(default=1, ge=1)
    """Threads of one engine on a CPU."""
    report_interval_seconds: float = Field(default=0.05, ge=0.05, le=5)
    """Watchers hear of load and cache changes this often."""
    stall_seconds: float = Field(default=300.0, gt=0)
    """An engine that makes no step for so long while it has calls is taken for dead. vLLM only."""
    restart_seconds: float = Field(default=1.0, ge=0)
    """Pause before a dead worker is started again; doubles, up to 30 s, while it keeps dying young."""

    @field_validator("quanta")
    @classmethod
    def _positive(cls, quanta: tuple[int, ...]) -> tuple[int, ...]:
        if len(quanta) >= LEVELS or any(quantum < 1 for quantum in quanta):
            raise ValueError(f"fewer than {LEVELS} quanta, of at least one token each")
        return quanta

    @model_validator(mode="after")
    def _over_nodes(self) -> Self:
        if self.node_rank >= self.num_nodes:
            raise ValueError(f"node_rank: expected less than num_nodes, {self.num_nodes}, got {self.node_rank}")
        if self.num_gpus % self.num_nodes:
            raise ValueError(f"num_nodes: expected a divisor of {self.num_gpus} GPUs, got {self.num_nodes}")
        if self.num_nodes > 1 and (self.engine != "vllm" or self.count != 1):
            raise ValueError("num_nodes: an engine over several nodes is vLLM, and the only one there (count = 1)")
        if self.num_nodes > 1 and not 0 < self.head[1] < _LAST_PORT:
            raise ValueError(f"head_address: expected host:port below port {_LAST_PORT}, got {self.head_address!r}")
        return self

    @property
    def head(self) -> tuple[str, int]:
        """Host and port of the engine's head; port 0: it has none."""
        host, _, port = self.head_address.rpartition(":")
        return host, int(port) if host and port.isdigit() else 0

    @property
    def num_gpus(self) -> int:
        """Of one engine, on all of its nodes."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    def preempting(self) -> Preemption | None:
        """How engines preempt; None: as vLLM does."""
        if not self.preemption:
            return None
        return Preemption(self.preemption_margin, self.preemption_min_tokens, self.quanta)


class Settings(BaseModel):
    """What the worker process reads."""

    model_config = ConfigDict(frozen=True)

    cluster: ClusterSection = ClusterSection()
    tls: TlsSection = TlsSection()
    registry: RegistrySection = RegistrySection()
    telemetry: TelemetrySection = TelemetrySection()
    worker: WorkerSection = WorkerSection()
    simulated: SimulatedSection = SimulatedSection()
    kvpool: KVPoolSection = KVPoolSection()
