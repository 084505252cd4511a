"""`python -m services.worker`: the workers of one machine.

Simulated workers all run in this process. A vLLM worker is a process of its own, and this one keeps `count` of them.
"""

import sys

from services.common import server
from services.common.config import SettingsError, load
from services.worker import service, zygote
from services.worker.config import Settings


def main() -> None:
    try:
        settings = load(Settings)
    except SettingsError as error:
        sys.exit(f"legato: {error}")
    if settings.worker.engine == "simulated":
        server.run("worker", settings, lambda: service.running(settings))
        return
    try:
        zygote.run(settings)
    except ImportError as error:
        sys.exit(f'legato: vLLM does not run here ({error}); [worker] engine = "simulated" needs none')


if __name__ == "__main__":
    main()
