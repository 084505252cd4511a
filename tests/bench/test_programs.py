"""Generated programs: the same for the same seed, and as real ones are, by the figures that the shapes cite."""

import pytest

from bench.statistics import Statistics, describe
from bench.text import text_of
from sim.programs import SHAPES, generate, load, mix
from sim.trace import Program

COUNT = 400


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Program]]:
    return {shape: generate(shape, COUNT, seed=7) for shape in SHAPES}


@pytest.fixture(scope="module")
def statistics(drawn: dict[str, list[Program]]) -> dict[str, Statistics]:
    return {shape: describe(programs) for shape, programs in drawn.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_program_depends_on_shape_seed_and_index_alone(shape: str):
    assert generate(shape, 3, seed=1) == generate(shape, 5, seed=1)[:3]
    assert generate(shape, 3, seed=1) != generate(shape, 3, seed=2)


@pytest.mark.parametrize("shape", SHAPES)
def test_calls_are_numbered_in_an_order_in_which_they_can_run(shape: str, drawn: dict[str, list[Program]]):
    for program in drawn[shape]:
        assert [call.id for call in program.calls] == list(range(len(program.calls)))
        assert all(parent < call.id for call in program.calls for parent in call.parents)
        assert all(0 <= index < len(program.segments) for call in program.calls for index in call.prompt)


def test_arrivals_are_poisson_and_shapes_evenly_mixed():
    programs = mix(400, seed=3, programs_per_second=10.0)
    arrivals = [program.arrival_s or 0.0 for program in programs]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] == pytest.approx(40.0, rel=0.15)
    assert {shape: sum(program.workload == shape for program in programs) for shape in SHAPES} == dict.fromkeys(
        SHAPES, 100
    )
    assert programs == mix(400, seed=3, programs_per_second=10.0)


# The source's figures, as bench/README.md tabulates them; the shape's scale divides them.
CALLS = {"react": (38, 85), "map_reduce": (31, 145), "debate": (5, 7), "plan_execute": (20, 66)}
OUTPUTS = {"react": (116, 583), "map_reduce": (50, 181), "debate": (190, 596), "plan_execute": (236, 310)}
OWN = {"react": 0.97, "plan_execute": 0.761}
FIRST_CALL = {"react": 0.94, "map_reduce": 0.64, "debate": 0.27, "plan_execute": 0.86}


@pytest.mark.parametrize("shape", CALLS)
def test_programs_are_as_long_as_real_ones(shape: str, statistics: dict[str, Statistics]):
    divide = load(shape).SCALE.calls
    assert statistics[shape].calls_p50 * divide == pytest.approx(CALLS[shape][0], rel=0.2)
    assert statistics[shape].calls_p90 * divide == pytest.approx(CALLS[shape][1], rel=0.2)


@pytest.mark.parametrize("shape", OUTPUTS)
def test_outputs_are_as_long_as_real_ones(shape: str, statistics: dict[str, Statistics]):
    divide = load(shape).SCALE.output
    assert statistics[shape].output_p50 * divide == pytest.approx(OUTPUTS[shape][0], rel=0.15)
    assert statistics[shape].output_p90 * divide == pytest.approx(OUTPUTS[shape][1], rel=0.2)


@pytest.mark.parametrize("shape", OWN)
def test_a_program_repeats_its_own_prompts_as_real_ones_do(shape: str, statistics: dict[str, Statistics]):
    assert statistics[shape].own == pytest.approx(OWN[shape], abs=0.06)


@pytest.mark.parametrize("shape", FIRST_CALL)
def test_first_prompts_share_as_much_as_real_ones(shape: str, statistics: dict[str, Statistics]):
    assert statistics[shape].first_call == pytest.approx(FIRST_CALL[shape], abs=0.06)


def test_fan_outs_are_as_wide_as_real_ones(statistics: dict[str, Statistics]):
    assert statistics["react"].width_max == statistics["debate"].width_max == 1
    assert statistics["map_reduce"].width_p50 == pytest.approx(6, abs=3)
    assert 100 < statistics["map_reduce"].width_max <= 156
    assert (statistics["plan_execute"].width_p50, statistics["plan_execute"].width_max) == (3, 5)


def test_tool_gaps_have_a_heavy_tail(statistics: dict[str, Statistics]):
    assert statistics["react"].tool_s_p90 > 20 * statistics["react"].tool_s_p50


def test_equal_hashes_are_equal_text():
    assert text_of("a", 50) == text_of("a", 50) != text_of("b", 50)
    assert len(text_of("a", 50).split()) == 50
