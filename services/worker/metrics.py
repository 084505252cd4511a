"""What /metrics of a worker process tells."""

from typing import Final

from prometheus_client import Counter, Gauge

CALLS: Final = Counter("legato_worker_calls_total", "Calls that ended.", ("worker", "reason"))
PROMPT_TOKENS: Final = Counter("legato_worker_prompt_tokens_total", "Prompt tokens of calls that ended.", ("worker",))
CACHED_TOKENS: Final = Counter("legato_worker_cached_tokens_total", "Of them, taken from a cache.", ("worker",))
OUTPUT_TOKENS: Final = Counter("legato_worker_output_tokens_total", "Output tokens of calls that ended.", ("worker",))
RUNNING: Final = Gauge("legato_worker_running_calls", "Sequences in the engine's batch.", ("worker",))
WAITING: Final = Gauge("legato_worker_waiting_calls", "Sequences in the engine's own queue.", ("worker",))
KV_USAGE: Final = Gauge("legato_worker_kv_usage_ratio", "Share of KV blocks in use.", ("worker",))
PREEMPTIONS: Final = Gauge("legato_worker_preemptions", "Preemptions since the engine's start.", ("worker",))
KV_TRANSFERS: Final = Counter(
    "legato_worker_kv_transfers_total",
    "Between engine and KV pool: blocks saved, known there already, dropped, loaded and failed; bytes; seconds.",
    ("what",),
)
