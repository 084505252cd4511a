"""`python -m services.gateway`: one gateway as a process of its own."""

import sys

from services.common import server
from services.common.config import SettingsError, load
from services.gateway.config import Settings
from services.gateway.service import running


def main() -> None:
    try:
        settings = load(Settings)
    except SettingsError as error:
        print(f"legato: {error}", file=sys.stderr)  # noqa: T201 (logging is not set up yet)
        sys.exit(2)
    server.run("gateway", settings, lambda: running(settings))


if __name__ == "__main__":
    main()
