"""`python -m services.worker.calibrate`: a profile of the simulator from running workers.

The workers must be idle, and stay so for about a minute. All those named are measured at once, so that engines which
share a machine share it as they do in service. Their addresses are in `legato workers`, which is asked when none are
given. The profile is written as profiles.json has it, and taken by path wherever one is taken by name.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import grpc
from pydantic import BaseModel

import legato
from services.common import tls
from services.common.config import ClusterSection, SettingsError, TlsSection, load
from services.worker.calibrate.calibration import Calibration, Sizes, calibrate
from services.worker.calibrate.measure import Disturbed


class _Settings(BaseModel):
    """What there is to know of the cluster."""

    cluster: ClusterSection = ClusterSection()
    tls: TlsSection = TlsSection()


def main() -> None:
    arguments = _arguments()
    try:
        settings = load(_Settings)
        tls.assume(tls.identity(settings.tls, settings.cluster.name, "operator"))
    except SettingsError as error:
        sys.exit(f"calibrate: {error}")
    try:
        found = asyncio.run(_calibrate(arguments))
    except* (Disturbed, ValueError, ConnectionError, legato.LegatoError, grpc.aio.AioRpcError) as errors:
        sys.exit(f"calibrate: {_first(errors)}")
    for line in found.lines():
        print(line)  # noqa: T201 (it is a command)
    row = asdict(found.profile)
    arguments.out.write_text(json.dumps({arguments.name or found.name: row}, indent=1) + "\n", encoding="utf-8")
    print(f"profile {arguments.out}")  # noqa: T201


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.worker.calibrate", description=__doc__)
    parser.add_argument("--worker", action="append", default=[], metavar="HOST:PORT", help="repeat for several at once")
    parser.add_argument("--address", metavar="HOST:PORT", help="gateway that knows the workers (LEGATO_ADDRESS)")
    parser.add_argument("--model", default="", help="which workers, where the gateway serves several models")
    parser.add_argument("--steps", type=int, default=48, help="decode steps of one measurement (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each point (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts; not the same twice in a worker's life")
    parser.add_argument("--name", default="", help="of the profile in the file; otherwise the model's")
    parser.add_argument("--out", type=Path, default=Path("profile.json"))
    return parser.parse_args()


async def _calibrate(arguments: argparse.Namespace) -> Calibration:
    addresses: Sequence[str] = arguments.worker or await _known(arguments.address, arguments.model)
    return await calibrate(addresses, Sizes(arguments.steps, arguments.repeats, arguments.seed))


async def _known(address: str | None, model: str) -> list[str]:
    async with legato.Client(address) as client:
        workers = [worker for worker in await client.workers() if model in ("", worker.model)]
    models = {worker.model for worker in workers}
    if len(models) != 1:
        raise ValueError(f"name a model: {', '.join(sorted(models)) or 'no worker is there'}")
    return [worker.address for worker in workers]


def _first(group: BaseExceptionGroup[Exception]) -> str:
    error = group.exceptions[0]
    if isinstance(error, BaseExceptionGroup):
        return _first(error)
    return str(error.details() if isinstance(error, grpc.aio.AioRpcError) else error)


if __name__ == "__main__":
    main()
