"""What /metrics of a scheduler tells."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_DECISION = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_COMPLETION = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0)
_WAIT = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

LEADING: Final = Gauge("legato_scheduler_leading", "1 while this process leads.")
TERM: Final = Gauge("legato_scheduler_term", "Number of the term in which this process leads, or led last.")
TERMS: Final = Counter("legato_scheduler_terms_total", "Times that this process began to lead.")
TAKEOVER_SECONDS: Final = Gauge(
    "legato_scheduler_takeover_seconds",
    "From finding the leader before dead, else from its election, until this process last began to serve gateways.",
)
QUEUE_LENGTH: Final = Gauge("legato_scheduler_queue_length", "Calls that wait for a place.")
PROGRAMS: Final = Gauge("legato_scheduler_programs", "Programs that have not ended.")
PAUSED: Final = Gauge(
    "legato_scheduler_paused_programs", "Of these, those that wait until some worker has room for their KV."
)
PROGRAM_SECONDS: Final = Histogram(
    "legato_scheduler_program_seconds",
    "Completion time of programs: from the first call to the end that was announced.",
    buckets=_COMPLETION,
)
DECISION_SECONDS: Final = Histogram(
    "legato_scheduler_decision_seconds",
    "From the arrival of a gateway's event to the end of the decisions that it led to.",
    buckets=_DECISION,
)
QUEUE_SECONDS: Final = Histogram(
    "legato_scheduler_queue_seconds", "What calls that were placed had waited here.", buckets=_WAIT
)
PLACEMENTS: Final = Counter("legato_scheduler_placements_total", "Calls placed, again ones included.")
REJECTIONS: Final = Counter("legato_scheduler_rejections_total", "Calls refused.", ("reason",))
RESTARTS: Final = Counter("legato_scheduler_restarts_total", "Calls that lost their worker and were queued again.")
HAND_OFFS: Final = Counter("legato_scheduler_hand_offs_total", "Calls placed for their prefill alone.")
PREFETCHES: Final = Counter(
    "legato_scheduler_prefetches_total", "KV that pools were told to bring for a placed call.", ("outcome",)
)
POOLS: Final = Gauge("legato_scheduler_pools", "KV pools that answer.")
UNSAVED: Final = Gauge("legato_scheduler_unsaved_programs", "Programs whose state is still to be written.")
