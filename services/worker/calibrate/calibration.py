"""The whole of a calibration: connect, measure, fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.worker.calibrate.facts import Facts, copy_speed, facts
from services.worker.calibrate.fit import fit, predicted
from services.worker.calibrate.measure import connected, measure
from services.worker.calibrate.points import Decode, Prefill, Sample, plan
from services.worker.simulated.cost import Profile


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    num_steps: int = 48
    """Decode steps of one measurement."""
    repeats: int = 3
    """Measurements of each point, of which the median counts."""
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found."""

    name: str
    """Of the model."""
    facts: Facts
    samples: list[Sample]
    profile: Profile

    def residual(self, sample: Sample) -> float:
        """Predicted over measured time, less one."""
        return predicted(self.profile, sample) / sample.seconds - 1

    def lines(self) -> Iterator[str]:
        """For people: each point, measured and as the profile gives it back."""
        yield f"{'step':>24} {'measured ms':>12} {'fitted ms':>10} {'error':>7}"
        for sample in self.samples:
            fitted = predicted(self.profile, sample)
            yield f"{sample.point!s:>24} {1e3 * sample.seconds:12.3f} {1e3 * fitted:10.3f} {self.residual(sample):7.1%}"
        worst = max(self.samples, key=lambda sample: abs(self.residual(sample)))
        mean = sum(abs(self.residual(sample)) for sample in self.samples) / len(self.samples)
        yield f"mean error {mean:.1%}, worst {self.residual(worst):.1%} ({worst.point})"


async def calibrate(addresses: Sequence[str], sizes: Sizes) -> Calibration:
    """Measure the workers at these addresses, all at once. They serve one model, in one shape, and nobody else.

    Raises Disturbed, ValueError for workers that differ, and what gRPC raises; perhaps in an exception group.
    """
    async with connected(addresses, sizes.seed) as benches:
        shapes = {(b.description.model, b.description.max_num_seqs, b.description.num_blocks) for b in benches}
        if len(shapes) != 1:
            raise ValueError(f"the workers differ: {shapes}")
        worker = benches[0].description
        points = plan(worker, sizes.num_steps)
        for warm_up in (Prefill(worker.block_size, 0), Decode(1, worker.block_size + 1)):
            await measure(benches, warm_up, 2, 1)
        samples = [await measure(benches, point, sizes.num_steps, sizes.repeats) for point in points]
        known = facts(worker, copy_speed())
        return Calibration(worker.model, known, samples, fit(samples, known))


def pooled(calibrations: Sequence[Calibration]) -> Calibration:
    """One profile for several calibrations of the same machine, which is not the same at all times."""
    first = calibrations[0]
    samples = [sample for calibration in calibrations for sample in calibration.samples]
    return Calibration(first.name, first.facts, samples, fit(samples, first.facts))
