"""What /metrics of a workflow service tells."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_HANDLE = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1)
_LAG = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)

SKIPPED: Final = Counter("legato_workflow_skipped_total", "Entries that were not, by why.", ("why",))
ENTRY_SECONDS: Final = Histogram(
    "legato_workflow_entry_seconds", "What one entry took, mean of those taken at once.", buckets=_HANDLE
)
LAG_SECONDS: Final = Histogram(
    "legato_workflow_lag_seconds",
    "From what happened to learning from it, the oldest of those taken at once.",
    buckets=_LAG,
)
FORECASTS: Final = Counter("legato_workflow_forecasts_total", "Forecasts made.")
IN_FORCE: Final = Gauge("legato_workflow_forecasts_in_force", "Forecasts that hold.")
WATCHERS: Final = Gauge("legato_workflow_watchers", "Streams of forecasts.")
DROPPED: Final = Counter("legato_workflow_dropped_total", "Forecasts that a slow watcher never got.")
CAUGHT_UP: Final = Gauge("legato_workflow_caught_up", "1 while this process knows the whole log and is listed.")
SNAPSHOT_BYTES: Final = Gauge("legato_workflow_snapshot_bytes", "Size of the last snapshot.")
SNAPSHOT_SECONDS: Final = Gauge("legato_workflow_snapshot_seconds", "What taking it held up this process.")
