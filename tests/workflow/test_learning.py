"""What a quantity learns: laws that hold, cells that are heard if they tell something, values yet to come."""

import json
import random
from collections.abc import Callable, Iterator

import pytest

from services.common.laws import Key, Lomax, Quantiles
from services.workflow.learning import SECONDS, TOKENS, Quantity, Speeds
from services.workflow.learning.scale import NUM_STRETCHES

_KINDS: list[Key] = [(), ("app",), ("role", "writer", "app")]


def quantity(
    *, cells: int = 1, most_cells: int = 64, most_seen: float = 2048.0, never: bool = False, calibrated: bool = True
) -> Quantity:
    prior = Lomax(1.0, 10.0)
    weights = {"kind_weight": 2.0, "cell_weight": 3.0}
    return Quantity(SECONDS, prior, cells, most_cells, most_seen, **weights, never=never, calibrated=calibrated)


def learn(of: Quantity, cells: list[Key], value: float | None) -> Quantiles:
    """What was expected before."""
    question = of.ask(_KINDS, cells)
    law = of.law(question)
    of.learn(question, value)
    return law


def draws(seed: int, mean: float) -> Iterator[float]:
    rng = random.Random(seed)
    while True:
        yield rng.expovariate(1.0 / mean)


def covered(laws: list[tuple[Quantiles, float]]) -> float:
    return sum(law.quantile(0.1) <= value <= law.quantile(0.9) for law, value in laws) / len(laws)


def test_a_law_becomes_that_of_the_values() -> None:
    of, values = quantity(), draws(1, 5.0)
    for _ in range(500):
        learn(of, [("all",)], next(values))
    seen = [(learn(of, [("all",)], value), value) for value in (next(values) for _ in range(500))]
    assert 0.75 <= covered(seen) <= 0.85
    law = seen[-1][0]
    assert law.quantile(0.5) == pytest.approx(5.0 * 0.693, rel=0.2)
    assert law.quantile(0.9) == pytest.approx(5.0 * 2.303, rel=0.25)


def test_who_knows_nothing_says_so() -> None:
    of = quantity()
    unknown = of.law(of.ask(_KINDS, [("all",)]))
    assert unknown.quantile(0.9) > 20.0 * unknown.quantile(0.1)
    for _ in range(100):
        learn(of, [("all",)], 4.0)
    known = of.law(of.ask(_KINDS, [("all",)]))
    assert 2.5 < known.quantile(0.1) <= known.quantile(0.9) < 6.0
    elsewhere = of.law(of.ask([(), ("other",), ("role", "writer", "other")], [("all",)]))
    assert elsewhere.quantile(0.5) == pytest.approx(4.0, rel=0.3)  # a kind not seen yet is believed to be as all are


def test_what_tells_something_is_heard_and_what_tells_nothing_costs_little() -> None:
    rng = random.Random(3)
    told, noisy = quantity(cells=2), quantity(cells=2)
    errors: dict[str, list[float]] = {"told": [], "noisy": []}
    for index in range(1500):
        tool, noise = rng.choice(("read", "bash")), rng.randrange(4)
        value = rng.lognormvariate(0.0 if tool == "read" else 4.0, 0.5)
        for name, of, first in (("told", told, tool), ("noisy", noisy, "")):
            law = learn(of, [("tool", first), ("noise", noise)], value)
            if index >= 500:
                errors[name].append(abs(law.quantile(0.5) - value))
    assert sum(errors["told"]) < 0.5 * sum(errors["noisy"])
    right = quantity(cells=1)
    lone: list[float] = []
    rng = random.Random(3)
    for index in range(1500):
        tool, _ = rng.choice(("read", "bash")), rng.randrange(4)
        value = rng.lognormvariate(0.0 if tool == "read" else 4.0, 0.5)
        law = learn(right, [("tool", tool)], value)
        if index >= 500:
            lone.append(abs(law.quantile(0.5) - value))
    assert sum(errors["told"]) < 1.1 * sum(lone)


def test_values_that_never_come_are_expected_as_often_as_they_were() -> None:
    of, values, rng = quantity(never=True), draws(4, 5.0), random.Random(4)
    for _ in range(600):
        learn(of, [("all",)], None if rng.random() < 0.3 else next(values))
    law = of.law(of.ask(_KINDS, [("all",)]))
    assert law.never == pytest.approx(0.3, abs=0.06)
    assert law.cdf(1e9, 60.0) < law.cdf(1e9)  # who is away for long hardly comes back


def test_values_that_have_not_come_yet_count_for_what_they_have_passed() -> None:
    """Half the values are 100 and are known only to have passed 50: without them all would seem to be 5."""

    def median(tell: Callable[[Quantity], None]) -> float:
        of = quantity(cells=2, calibrated=False)
        for _ in range(40):
            learn(of, [("turn", 1), ("task",)], 5.0)
            tell(of)
        return of.law(of.ask(_KINDS, [("turn", 1), ("task",)])).cdf(20.0)

    def passed(of: Quantity) -> None:
        of.lived(of.ask(_KINDS, [("turn", 1), ("task",)]), 0, SECONDS.place(50.0))

    assert median(lambda of: None) > 0.95
    assert median(passed) == pytest.approx(0.5, abs=0.12)


def test_what_was_passed_in_parts_counts_once() -> None:
    whole, parts = quantity(cells=2), quantity(cells=2)
    cells: list[Key] = [("turn", 1), ("task",)]
    for _ in range(50):
        whole.learn(whole.ask(_KINDS, cells).of_old(), 80.0)
        question = parts.ask(_KINDS, cells).of_old()
        for start, end in ((0.0, 3.0), (3.0, 20.0), (20.0, 60.0)):
            parts.lived(question, SECONDS.place(start), SECONDS.place(end))
        parts.learn(question, 80.0, SECONDS.place(60.0))
    one, other = (of.law(of.ask(_KINDS, cells)) for of in (whole, parts))
    assert other.points == pytest.approx(one.points)


def test_a_law_follows_when_values_change() -> None:
    of = quantity(most_seen=128.0)
    for _ in range(400):
        learn(of, [("all",)], 2.0)
    for _ in range(400):
        learn(of, [("all",)], 40.0)
    assert of.law(of.ask(_KINDS, [("all",)])).quantile(0.2) > 20.0


def test_cells_are_bounded_and_a_cell_that_is_gone_is_not_written_to() -> None:
    of = quantity(most_cells=16)
    old = of.ask(_KINDS, [("task", "old")])
    for task in range(200):
        learn(of, [("task", task)], 7.0)
    of.learn(old, 7.0)
    of.check()
    assert len(of.snapshot(1000)["cells"]["keys"]) == 16


def test_a_snapshot_is_what_was_learned() -> None:
    of, other = quantity(calibrated=False), quantity(calibrated=False)
    values = draws(5, 5.0)
    for index in range(300):
        learn(of, [("turn", index % 5)], next(values))
    other.restore(json.loads(json.dumps(of.snapshot(64))))
    other.check()
    for turn in range(5):
        one, two = (each.law(each.ask(_KINDS, [("turn", turn)])) for each in (of, other))
        assert two.points == pytest.approx(one.points, rel=0.03)


def test_a_law_that_is_too_sure_is_corrected() -> None:
    """Values come in runs, so that the newest ones seem to tell more than they do."""
    rng = random.Random(6)
    of = quantity(most_seen=16.0)
    laws: list[tuple[Quantiles, float]] = []
    for index in range(3000):
        value = rng.lognormvariate(1.0, 1.0)
        law = learn(of, [("all",)], value)
        if index >= 1500:
            laws.append((law, value))
    assert 0.75 <= covered(laws) <= 0.85


def test_speeds_are_found_from_calls_and_follow() -> None:
    speeds, rng = Speeds(), random.Random(7)
    assert speeds.of("m") is None
    for prefill, step in ((1e-4, 0.02), (3e-4, 0.05)):
        for _ in range(300):
            uncached, output = rng.randrange(1, 8000), rng.randrange(1, 800)
            speeds.add("m", uncached, output, uncached * prefill + output * step)
        assert speeds.of("m") == pytest.approx((prefill, step), rel=0.02)
    law = speeds.service("m", 1000, Quantiles([100.0, 200.0]))
    assert law is not None
    assert law.points == pytest.approx((0.3 + 5.0, 0.3 + 10.0), rel=0.02)


def test_stretches_cover_what_there_is() -> None:
    for scale, most in ((TOKENS, 200_000.0), (SECONDS, 40_000.0)):
        assert scale.place(0.0) == 0
        assert scale.place(most) < NUM_STRETCHES - 1 < scale.place(1e12) + 1
