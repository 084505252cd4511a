"""The tables of the `legato` command: rows of what the cluster says about itself, the first one the heading."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeAlias

from legato.cluster import Model, ProgramStatus, Worker
from legato.pools import Pool
from legato.reply import Eta

Rows: TypeAlias = list[Sequence[object]]


def worker_rows(workers: list[Worker]) -> Rows:
    head = ("WORKER", "MODEL", "ENGINE", "ROLE", "ADDRESS", "PLACED", "RUNNING", "WAITING", "KV", "CACHED", "STATE")
    return [
        head,
        *(
            (
                worker.worker_id,
                worker.model,
                worker.engine,
                worker.role,
                worker.address,
                worker.num_placed,
                worker.num_running,
                worker.num_waiting,
                f"{worker.kv_usage:.0%}",
                _share(worker.cached_tokens, worker.prompt_tokens),
                "draining" if worker.draining else "serving",
            )
            for worker in workers
        ),
    ]


def program_rows(programs: list[ProgramStatus]) -> Rows:
    head = (
        *("PROGRAM", "STATE", "CLASS", "AGE", "DEADLINE", "ETA", "QUEUED", "RUNNING", "DONE", "RESTARTS"),
        *("SERVICE", "QUEUE", "TOKENS", "CACHED"),
    )
    now = datetime.now(UTC)
    return [
        head,
        *(
            (
                program.program_id,
                "ended" if program.ended else "paused" if program.paused else "live",
                program.service_class,
                f"{((program.ended or now) - program.started).total_seconds():.1f}s" if program.started else "",
                f"{(program.deadline - (program.ended or now)).total_seconds():.1f}s" if program.deadline else "",
                _interval(program.eta) if program.eta else "",
                program.num_queued,
                program.num_running,
                program.num_finished,
                program.num_restarted,
                f"{program.service_seconds:.2f}s",
                f"{program.queue_seconds:.2f}s",
                program.usage.prompt_tokens + program.usage.completion_tokens,
                _share(program.usage.cached_tokens, program.usage.prompt_tokens),
            )
            for program in programs
        ),
    ]


def model_rows(models: list[Model]) -> Rows:
    return [
        ("MODEL", "CONTEXT", "WORKERS"),
        *((model.name, model.max_model_len, model.num_workers) for model in models),
    ]


def tier_rows(pools: list[Pool]) -> Rows:
    """What each tier holds and gives."""
    return [
        ("POOL", "TIER", "USED", "SIZE", "BLOCKS", "HITS", "READ/S", "WRITTEN/S"),
        *(
            (
                pool.pool_id,
                tier.name,
                _bytes(tier.used_bytes),
                _bytes(tier.capacity_bytes),
                tier.num_blocks,
                f"{tier.hit_share:.0%}",
                _bytes(tier.read_bytes_per_second),
                _bytes(tier.written_bytes_per_second),
            )
            for pool in pools
            for tier in pool.tiers
        ),
    ]


def pool_rows(pools: list[Pool]) -> Rows:
    """What calls got from each pool, and the speeds that it measured."""
    head = (
        "POOL",
        "RETENTION",
        "ASKED",
        "MISSED",
        "PULLED",
        "CORRUPT",
        "LEASES",
        "STORES",
        "LOAD/S",
        "SSD/S",
        "PULL/S",
    )
    return [
        head,
        *(
            (
                pool.pool_id,
                pool.retention,
                pool.num_requested_blocks,
                _share(pool.num_missed_blocks, pool.num_requested_blocks),
                pool.num_pulled_blocks,
                pool.num_corrupt_blocks,
                pool.num_leases,
                pool.num_reservations,
                _bytes(pool.load_bytes_per_second),
                _bytes(pool.ssd_read_bytes_per_second),
                _bytes(pool.pull_bytes_per_second),
            )
            for pool in pools
        ),
    ]


def eviction_rows(pools: list[Pool]) -> Rows:
    """How many blocks left each pool, and why."""
    return [
        ("POOL", "EVICTED AS", "BLOCKS"),
        *((pool.pool_id, reason, count) for pool in pools for reason, count in pool.evictions.items()),
    ]


def kept_rows(pools: list[Pool]) -> Rows:
    """The programs for which each pool keeps most."""
    return [
        ("POOL", "PROGRAM", "KEPT"),
        *((pool.pool_id, top.program_id, _bytes(top.num_bytes)) for pool in pools for top in pool.top_programs),
    ]


def _interval(eta: Eta) -> str:
    """The mean, and where it lies with a chance of 0.8."""
    return f"{eta.expected_seconds:.1f}s ({eta.low_seconds:.1f}-{eta.high_seconds:.1f})"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "0%"


def _bytes(number: float) -> str:
    """To three digits or so: `1.5GiB`."""
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1000 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f}{unit}" if unit == "B" or number >= 100 else f"{number:.1f}{unit}"
