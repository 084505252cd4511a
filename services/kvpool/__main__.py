"""`python -m services.kvpool`: the KV pool of this host."""

import sys

from services.common import server
from services.common.config import SettingsError, load
from services.kvpool import service
from services.kvpool.config import Settings


def main() -> None:
    try:
        settings = load(Settings)
    except SettingsError as error:
        sys.stderr.write(f"legato: {error}\n")
        sys.exit(2)
    if not settings.kvpool.enabled:
        sys.exit("legato: [kvpool] enabled = false: there is no pool to run")
    server.run("kvpool", settings, lambda: service.running(settings))


if __name__ == "__main__":
    main()
