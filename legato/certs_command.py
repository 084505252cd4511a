"""`legato certs`: who is who in a cluster, by certificates of its own."""
# ruff: noqa: T201 (a command prints)

import argparse
import sys
from pathlib import Path

from legato.client import Client

DEFAULT_DAYS = 365


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("directory", metavar="DIR", type=Path, help="made for its owner only, as are the files in it")
    parser.add_argument("--cluster", default="legato", metavar="NAME", help="[cluster] name (%(default)s)")
    parser.add_argument(
        "--names",
        default="",
        metavar="NAME,...",
        help="host names and IP addresses at which gateways, etcd and Redis are reached",
    )
    parser.add_argument("--days", type=int, default=DEFAULT_DAYS, help="how long identities hold (%(default)s)")
    parser.add_argument("--renew", action="store_true", help="all identities anew, by the same authority")
    parser.set_defaults(run=run)


def run(_: Client, arguments: argparse.Namespace) -> int:
    """The command. Raises OSError."""
    try:
        from legato import certs  # needs a package that nothing else of the SDK needs
    except ImportError:
        print("legato: certificates need the package cryptography: pip install legato[certs]", file=sys.stderr)
        return 1
    names = [name.strip() for name in arguments.names.split(",") if name.strip()]
    try:
        made = certs.issue(arguments.directory, arguments.cluster, names, arguments.days, renew=arguments.renew)
    except certs.CannotIssue as error:
        print(f"legato: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.directory}: {', '.join(made) or 'nothing'} new of {', '.join(certs.SERVICES)}")
    return 0
