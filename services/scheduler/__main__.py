"""`python -m services.scheduler`: one scheduler; start another as a standby."""

import sys

from services.common import server
from services.common.config import SettingsError, load
from services.scheduler import service
from services.scheduler.config import Settings


def main() -> None:
    try:
        settings = load(Settings)
    except SettingsError as error:
        sys.stderr.write(f"legato: {error}\n")
        sys.exit(2)
    server.run("scheduler", settings, lambda: service.running(settings))


if __name__ == "__main__":
    main()
