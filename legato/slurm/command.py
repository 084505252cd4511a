"""`legato slurm submit|status|drain|scale|logs`."""

import argparse
import asyncio
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from legato.client import Client
from legato.cluster import Worker
from legato.errors import LegatoError
from legato.listings import worker_rows
from legato.slurm import commands, logs, queue, site
from legato.slurm.drain import drain
from legato.slurm.scale import scale
from legato.slurm.site import Site
from legato.slurm.submit import submit, write_scripts
from legato.table import lines_of

_PATIENCE_SECONDS = 600.0
_HEAD = ("JOB", "NAME", "STATE", "NODES", "LEFT", "REASON")


def add(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """The subcommands and their options."""
    sited = argparse.ArgumentParser(add_help=False, parents=[common])
    sited.add_argument("--site", metavar="FILE", help="site values (LEGATO_SITE)")
    actions = parser.add_subparsers(required=True, metavar="COMMAND")

    def action(name: str, run: Callable[[Site, argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, parents=[sited], help=about)
        added.set_defaults(run=lambda _, arguments: run(site.read(arguments.site), arguments))  # pyright: ignore
        return added

    starting = action("submit", _submit, "start a cluster: a control job and arrays of workers")
    starting.add_argument("--whole", action="store_true", help="one heterogeneous job instead")
    starting.add_argument("--dry-run", action="store_true", help="print the commands, submit nothing")
    starting.add_argument("--rewrite", action="store_true", help="submit nothing: write what later jobs start with")
    action("status", _status, "jobs, how to reach the gateways, and workers")
    draining = action("drain", _drain, "admit no new programs, end the cluster when those that live are done")
    draining.add_argument(
        "--patience", type=float, default=_PATIENCE_SECONDS, metavar="S", help="at most (%(default)g)"
    )
    scaling = action("scale", _scale, "have so many worker jobs")
    scaling.add_argument("count", type=int, metavar="N")
    scaling.add_argument("--role", choices=commands.ROLES, default="both", help="of workers (%(default)s)")
    scaling.add_argument("--oldest", action="store_true", help="have the oldest leave, not those with the least work")
    showing = action("logs", _logs, "what a service said, on all nodes")
    showing.add_argument("service", metavar="SERVICE", help='such as gateway or worker; "jobs": the jobs themselves')
    showing.add_argument("--follow", action="store_true", help="go on with what comes, until interrupted")


def _submit(values: Site, arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        for command in commands.kinds(values, arguments.whole).values():
            print(shlex.join(("sbatch", *command)))
        return 0
    if arguments.rewrite:
        write_scripts(values, commands.kinds(values, arguments.whole))
        return 0
    for kind, job_id in submit(values, arguments.whole).items():
        print(f"{kind}\t{job_id}")
    return 0


def _status(values: Site, arguments: argparse.Namespace) -> int:
    jobs = queue.jobs(commands.job_names(values))
    connection = _connection(values)
    workers, trouble = _workers(values) if connection else ([], "no call can be served yet")
    if arguments.json:
        print(json.dumps({"jobs": [asdict(job) for job in jobs], "connection": connection, "workers": _plain(workers)}))
        return 0
    rows = [_HEAD, *((job.id, job.name, job.state, job.nodes, job.time_left, job.reason) for job in jobs)]
    print("\n".join(lines_of(rows)))
    if connection:
        print(f"gateways  {', '.join(connection['addresses'])}")
        print(f"base URL  {connection['base_url']}\nAPI key   {connection['api_key']}")
    print(f"no workers to show: {trouble}" if trouble else "\n".join(lines_of(worker_rows(workers))))
    return 0


def _drain(values: Site, arguments: argparse.Namespace) -> int:
    client = _client(values)
    ended = asyncio.run(drain(values, client, arguments.patience, print))
    print(f"ended: {', '.join(ended) or 'nothing, there were no jobs'}")
    return 0


def _scale(values: Site, arguments: argparse.Namespace) -> int:
    workers = [] if arguments.oldest else _workers(values)[0]
    begun, ended = scale(values, arguments.role, arguments.count, workers)
    print(f"submitted: {', '.join(begun) or 'none'}; to leave: {', '.join(ended) or 'none'}")
    return 0


def _logs(values: Site, arguments: argparse.Namespace) -> int:
    for line in logs.lines(values, arguments.service, arguments.follow):
        print(line)
    return 0


def _client(values: Site) -> Client:
    """A client that does not wait: a person does."""
    return Client(str(values.connection_file), max_retries=0, reconnect_seconds=0.0)


def _connection(values: Site) -> dict[str, Any]:
    try:
        return json.loads(values.connection_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _workers(values: Site) -> tuple[list[Worker], str]:
    """The workers, or why they cannot be told."""

    async def listed() -> list[Worker]:
        async with _client(values) as client:
            return await client.workers()

    try:
        return asyncio.run(listed()), ""
    except LegatoError as error:
        return [], str(error)


def _plain(workers: Sequence[Worker]) -> list[dict[str, Any]]:
    return [asdict(worker) for worker in workers]
