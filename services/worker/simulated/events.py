"""What the simulated engine's core is told and what it answers. Plain values, seconds of the injected clock."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from services.worker.preemption import Preemption


@dataclass(frozen=True, slots=True)
class Shape:
    """How much fits into the engine, how fast its clock runs, and what it does beyond vLLM's own scheduling."""

    num_blocks: int
    block_size: int
    """Tokens in a block."""
    max_num_seqs: int
    max_num_batched_tokens: int
    """Token budget of a step, at least `max_num_seqs`."""
    speed: float = 1.0
    """Simulated seconds in a second of the clock."""
    leap_seconds: float = 0.0
    """Steps in which nobody is told anything and nobody joins or leaves are taken as one, up to so many seconds.
    Outcomes are the same; reports of load and cache come that much more rarely."""
    load_tokens_per_second: float = math.inf
    """How fast KV is brought into the device, in simulated seconds."""
    swap: bool = False
    """A preempted call's whole blocks are kept on the host and brought back."""
    preemption: Preemption | None = None
    """None: only for want of blocks, as in vLLM."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A call to run. Its key is unique among live calls."""

    key: int
    prompt_tokens: int
    output_tokens: int
    """How many it will generate, at least 1."""
    hashes: Sequence[int] = ()
    """Chained hash of each full block of prompt and output, in order. Blocks beyond it are never shared."""
    priority: int = 0
    """Smaller first; equal ones in order of arrival."""
    interval: int = 1
    """Report after so many tokens; the first and the last are reported at once."""
    brought_tokens: int = 0
    """The beginning of the prompt whose KV comes from the host when the call runs, if it is not cached: whole blocks.
    As with vLLM's asynchronous connectors the call has its blocks and waits; the others run on."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """A call to end early; an unknown key is ignored."""

    key: int


@dataclass(frozen=True, slots=True)
class Prioritized:
    """A call to be more or less urgent from now on; an unknown key is ignored."""

    key: int
    priority: int


Event = Submitted | Aborted | Prioritized


class End(Enum):
    """How a call ended."""

    DONE = auto()
    ABORTED = auto()
    TOO_LONG = auto()
    """Prompt and output together exceed the KV cache."""


class Receipt(NamedTuple):
    """The account of a call that ended."""

    end: End
    cached_tokens: int
    """Of the prompt, found in the prefix cache when the call first ran."""
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    num_preemptions: int


class Progress(NamedTuple):
    """A call got further. `receipt` is set when it ended."""

    key: int
    num_tokens: int
    """Generated so far."""
    receipt: Receipt | None


class Counters(NamedTuple):
    """The engine's load. The last seven count or average since the start."""

    num_running: int
    num_waiting: int
    kv_usage: float
    num_preemptions: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    num_steps: int
    step_seconds: float
    """Moving average over steps without prefill, in seconds of the clock."""
    prefill_tokens_per_second: float
    """Moving average over steps with prefill, per second of the clock."""


class Report(NamedTuple):
    """What a step, a stride of steps, or an abort between steps changed."""

    progress: list[Progress]
    stored: list[int]
    """Hashes that entered the prefix cache; none is in `removed` too."""
    removed: list[int]
    counters: Counters
