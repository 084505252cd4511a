"""Calibration gives back the profile of an engine whose profile is known."""

from statistics import median
from typing import Any

import pytest

from legato.v1 import worker_pb2
from services.common.config import ClusterSection, RegistrySection
from services.common.registry.embedded import serve_embedded
from services.worker import service
from services.worker.calibrate.calibration import Calibration, Sizes, calibrate
from services.worker.calibrate.facts import Facts
from services.worker.calibrate.fit import fit
from services.worker.calibrate.points import Decode, Point, Prefill, Sample, plan
from services.worker.config import Settings, WorkerSection
from services.worker.simulated.config import SimulatedSection
from services.worker.simulated.cost import Profile, load_profile, names

FACTS = Facts(32, 4096, 100_000, 131_072, 1e10)


def as_measured(point: Point, profile: Profile, num_steps: int) -> Sample:
    match point:
        case Decode():
            context = point.num_seqs * (point.context + num_steps // 2)
            terms = (point.num_seqs, point.num_seqs, context, 0.0)
        case Prefill():
            terms = (1, point.new, 0, point.new * point.cached + point.new**2 / 2)
    return Sample(point, *terms, profile.step_seconds(*terms))


def shape(**fields: Any) -> worker_pb2.WorkerDescription:
    usual: dict[str, Any] = {"block_size": 32, "num_blocks": 2000, "max_num_seqs": 32, "max_num_batched_tokens": 2048}
    merged: dict[str, Any] = {"max_model_len": 16384, **usual, **fields}
    return worker_pb2.WorkerDescription(**merged)


def fitted(name: str, worker: worker_pb2.WorkerDescription) -> Profile:
    profile = load_profile(name)
    return fit([as_measured(point, profile, 48) for point in plan(worker, 48)], FACTS)


@pytest.mark.parametrize("name", names())
def test_exact_times_give_back_steps_that_were_not_measured(name: str) -> None:
    true, found = load_profile(name), fitted(name, shape())
    for num_seqs, new, context, cached in ((4, 0, 900, 0), (24, 0, 2000, 0), (12, 700, 500, 0), (20, 1500, 1000, 4000)):
        step = (num_seqs + (new > 0), num_seqs + new, num_seqs * context, new * cached + new**2 / 2)
        # The truth bends where the fit has a straight line: measured tables of real kernels are not smooth.
        assert found.step_seconds(*step) == pytest.approx(true.step_seconds(*step), rel=0.12)


def test_terms_that_a_step_does_not_have_are_not_found() -> None:
    flat = Profile(1, 1, 1, 1, 5.0, 0.0, 0.0, 0.0, 0.0, 1.0, None, 1.0, ((1, 0.0), (4096, 0.0)))
    found = fit([as_measured(point, flat, 48) for point in plan(shape(), 48)], FACTS)
    assert found.t0_ms == pytest.approx(5.0)
    assert (found.seq_ms, found.ctx_ms_per_token, found.attn_flops_per_pair) == pytest.approx((0, 0, 0), abs=1e-9)
    assert found.linear(4096) == pytest.approx(0, abs=1e-9)


def test_twelve_points_fit_into_any_engine_of_some_size() -> None:
    for worker in (shape(), shape(num_blocks=190, max_num_seqs=8, max_model_len=4096, max_num_batched_tokens=512)):
        points = plan(worker, 48)
        assert len(points) == 12
        for point in points:
            match point:
                case Decode():
                    assert point.num_seqs * (point.context + 48) <= 0.75 * worker.num_blocks * worker.block_size
                case Prefill():
                    assert point.new <= worker.max_num_batched_tokens
                    assert point.new + point.cached <= min(worker.max_model_len, worker.num_blocks * worker.block_size)


def test_an_engine_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        plan(shape(num_blocks=3), 48)


async def measured(profile: str, count: int) -> Calibration:
    worker = WorkerSection(engine="simulated", model="m", model_path="", count=count, max_num_seqs=4)
    simulated = SimulatedSection(profile=profile, kv_tokens=4096)
    async with serve_embedded("127.0.0.1") as endpoint:
        cluster, registry = ClusterSection(drain_seconds=0), RegistrySection(endpoints=(endpoint,))
        settings = Settings(cluster=cluster, registry=registry, worker=worker, simulated=simulated)
        async with service.running(settings) as running:
            return await calibrate([worker.address for worker in running.workers], Sizes(num_steps=6, repeats=1))


@pytest.mark.parametrize("count", [1, 2])
async def test_running_workers_give_their_engine_s_profile(count: int) -> None:
    name = "llama3-70b@a100-tp4"
    found = await measured(name, count)
    assert len(found.samples) == 12
    assert found.profile.kv_tokens == 4096
    true, errors = load_profile(name), list[float]()
    for sample in found.samples:
        step = (sample.num_seqs, sample.num_tokens, round(sample.decode_context), sample.prefill_pairs)
        errors.append(sample.seconds / true.step_seconds(*step) - 1)
    # An engine that imitates in real time can lose time to a busy machine, and never gains any.
    assert min(errors) > -0.02
    assert median(errors) < 0.02
    assert median(abs(found.residual(sample)) for sample in found.samples) < 0.05
