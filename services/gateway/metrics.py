"""The gateway's metrics. Labels are models that are served, doors and reasons: never what a caller made up."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)

CALLS_IN_FLIGHT = Gauge("legato_gateway_calls_in_flight", "Calls that have not ended, queued ones included.")
CALLS = Counter("legato_gateway_calls_total", "Calls that ended, by how.", ("model", "outcome"))
ERRORS = Counter("legato_gateway_errors_total", "Requests that failed, by reason.", ("door", "reason"))
RESTARTS = Counter("legato_gateway_restarts_total", "Times a call was started again after losing its worker.")
HAND_OFFS = Counter("legato_gateway_hand_offs_total", "Times a call went on from its prefill to another worker.")
RESUMED = Counter("legato_gateway_resumed_calls_total", "Calls that were begun at a gateway that died.")
PROMPT_TOKENS = Counter("legato_gateway_prompt_tokens_total", "Prompt tokens of calls that completed.", ("model",))
CACHED_TOKENS = Counter("legato_gateway_cached_tokens_total", "Of these, tokens that came from a cache.", ("model",))
COMPLETION_TOKENS = Counter("legato_gateway_completion_tokens_total", "Tokens generated.", ("model",))
TTFT = Histogram(
    "legato_gateway_time_to_first_token_seconds", "From the request to its first token.", ("model",), buckets=_SECONDS
)
TPOT = Histogram(
    "legato_gateway_time_per_output_token_seconds", "After the first token.", ("model",), buckets=_PER_TOKEN
)
E2E = Histogram(
    "legato_gateway_call_seconds", "From the request to the end of its output.", ("model",), buckets=_SECONDS
)
QUEUE = Histogram(
    "legato_gateway_queue_seconds", "Waiting in the scheduler and in the engine.", ("model",), buckets=_SECONDS
)
PREPARE = Histogram(
    "legato_gateway_prepare_seconds", "Parsing, rendering, tokenizing and hashing a request.", buckets=_SECONDS
)
TOOL = Histogram("legato_gateway_tool_seconds", "Tools that clients reported.", ("failed",), buckets=_SECONDS)
TOKENIZER_MISMATCHES = Counter(
    "legato_gateway_tokenizer_mismatches_total", "Prompts whose tokens in parts differed from those of a full encode."
)
SCHEDULER_CONNECTED = Gauge("legato_gateway_scheduler_connected", "1 while the Schedule stream stands.")
SCHEDULER_AWAY_SECONDS = Histogram(
    "legato_gateway_scheduler_away_seconds",
    "From the end of a Schedule stream, or the start, until one stood: how long calls waited for who leads next.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0),
)
IDEMPOTENT = Counter(
    "legato_gateway_idempotent_requests_total", "Requests with an Idempotency-Key, by what became of them.", ("how",)
)
LOG_WAITING = Gauge("legato_gateway_log_waiting_entries", "Events that wait to be written to the call log.")
LOG_WRITTEN = Counter("legato_gateway_log_written_total", "Events that were written to the call log.")
LOG_DROPPED = Counter(
    "legato_gateway_log_dropped_total", "Events that were not: the state store was away for too long."
)
