"""`python -m services`: the whole of Legato on one machine.

run              every service in this process, engines as children, registry and state embedded (the default)
run --processes  real etcd and Redis, every service a process of its own, found through etcd alone
up, down         the same in the background; `up` returns when a call can be served
node             one node's share of a cluster over several nodes (docs/slurm.md)
"""

import argparse
import sys

from services.common import server
from services.common.config import SettingsError, load
from services.local import background, node, processes, together
from services.local.config import Settings


def main() -> None:
    if sys.argv[1:2] == ["node"]:
        node.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m services", description="The whole of Legato on one machine.")
    parser.add_argument("command", nargs="?", choices=("run", "up", "down"), default="run")
    parser.add_argument("--processes", action="store_true", help="one process per service, with real etcd and Redis")
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.command == "up":
        sys.exit(background.up(["--processes"] if arguments.processes else []))
    if arguments.command == "down":
        sys.exit(background.down())
    try:
        settings = load(Settings)
    except SettingsError as error:
        sys.exit(f"legato: {error}")
    shape = processes if arguments.processes else together
    server.run("legato", settings, lambda: shape.running(settings, arguments.ready_fd), identity="operator")


if __name__ == "__main__":
    main()
