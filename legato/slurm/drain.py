"""`legato slurm drain`: no new programs, then the end of the cluster when those that live are done."""

import asyncio
from collections.abc import Callable

from legato.client import Client
from legato.errors import DeadlineExceeded, Unavailable
from legato.slurm import commands, queue
from legato.slurm.site import Site
from legato.slurm.submit import DRAINING

_ASK_AGAIN_SECONDS = 2.0
SILENCE_SECONDS = 30.0
"""Of all gateways, until they are taken for dead: one may only start again."""

Say = Callable[[str], None]


async def drain(
    site: Site, client: Client, patience_seconds: float, say: Say, silence_seconds: float = SILENCE_SECONDS
) -> list[str]:
    """The ids of the jobs that were ended. Programs that live on after `patience_seconds` are cut off; what is known of
    them is kept for the next cluster. SiteError when none was started here."""
    site.require_started()
    (site.job_dir / DRAINING).touch(mode=0o600)
    jobs = queue.jobs(commands.job_names(site))
    leading = {commands.control_name(site), commands.whole_name(site)}
    for job in jobs:
        if job.name in leading and job.state == "RUNNING" and "+" not in job.id.removesuffix("+0"):
            queue.signal(job, "USR1")
    try:
        async with asyncio.timeout(patience_seconds), client:
            while alive := await _num_programs(client, say, silence_seconds):
                say(f"{alive} programs go on")
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
    except TimeoutError:
        say(f"programs still go on after {patience_seconds:g} s: they are cut off")
    except (Unavailable, DeadlineExceeded) as error:
        say(f"no gateway has answered for {silence_seconds:g} s, so nobody knows of programs: {error}")
    ids = list(dict.fromkeys(job.id.partition("+")[0] for job in jobs))
    if ids:
        queue.cancel(ids)
    return ids


async def _num_programs(client: Client, say: Say, silence_seconds: float) -> int:
    """Those that live. Raises what the last gateway failed with when none has answered for `silence_seconds`."""
    now = asyncio.get_running_loop().time
    asked_at = now()
    while True:
        try:
            return len(await client.programs(limit=1_000))
        except (Unavailable, DeadlineExceeded) as error:
            if now() - asked_at >= silence_seconds:
                raise
            say(f"no gateway answers: {error}")
        await asyncio.sleep(_ASK_AGAIN_SECONDS)
