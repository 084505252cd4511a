"""`python -m services.workflow`: one workflow service; others beside it learn the same and take its place at once."""

import sys

from services.common import server
from services.common.config import SettingsError, load
from services.workflow import service
from services.workflow.config import Settings


def main() -> None:
    try:
        settings = load(Settings)
    except SettingsError as error:
        sys.stderr.write(f"legato: {error}\n")
        sys.exit(2)
    server.run("workflow", settings, lambda: service.running(settings))


if __name__ == "__main__":
    main()
