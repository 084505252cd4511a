"""`python -m services.kvpool`: the KV pool of this host."""

import gc
import sys

from services.common import server
from services.common.config import SettingsError, load
from services.kvpool import service
from services.kvpool.config import Settings

_GC_THRESHOLDS = (50_000, 20, 1_000)
"""Judging all leaves makes tens of thousands of objects at once, and each look at all that is old would stop the pool
for several times as long as that takes. What the core drops has no cycles, so there is next to nothing to be found."""


def main() -> None:
    try:
        settings = load(Settings)
    except SettingsError as error:
        sys.stderr.write(f"legato: {error}\n")
        sys.exit(2)
    if not settings.kvpool.enabled:
        sys.exit("legato: [kvpool] enabled = false: there is no pool to run")
    gc.set_threshold(*_GC_THRESHOLDS)
    server.run("kvpool", settings, lambda: service.running(settings))


if __name__ == "__main__":
    main()
