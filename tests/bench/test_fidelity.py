"""The fidelity bench: exact prompt lengths, and errors that are found where they were put."""

import dataclasses
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from bench.drive import conversation
from bench.fidelity import simulated
from bench.fidelity.cluster import Cluster
from bench.fidelity.comparison import causes, compare
from bench.fidelity.replay import replay
from bench.fidelity.workload import exact, programs
from services.gateway.template import load_template
from services.worker import tiny_model
from services.worker.config import WorkerSection
from services.worker.simulated.cost import load_profile
from sim.trace import Program

PROFILE = "tiny-cpu"
WORKER = WorkerSection(count=2, max_num_seqs=8, max_num_batched_tokens=512)
CLUSTER = Cluster(WORKER, "fcfs")
NETWORK = 0.002


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_model.make(path)
    return path


def run(network_seconds: float = NETWORK) -> list[Program]:
    setup = dataclasses.replace(CLUSTER.setup(Path(PROFILE), network_seconds), kv_tokens=4096)
    return simulated.run(programs(12, 3.0, 1), setup)


def test_prompts_are_as_long_as_the_model_makes_them_and_share_what_they_shared(model: Path) -> None:
    made = programs(32, 1.0, 1)
    template, tokenizer = load_template(model), Tokenizer.from_file(str(model / "tokenizer.json"))
    for before, after in zip(made, exact(made, model), strict=True):
        for call, told in zip(before.calls, after.calls, strict=True):
            messages = [{"role": m.role, "content": m.content} for m in conversation(before, call)]
            text = template.render(messages, (), {})
            assert after.prompt_tokens(told) == len(tokenizer.encode(text, add_special_tokens=False).ids)
            assert len(told.prompt) == len(call.prompt) + 1
        first, *others = (call.prompt for call in before.calls)
        for index, other in enumerate(others, 1):
            common = next((i for i, (a, b) in enumerate(zip(first, other, strict=False)) if a != b), None)
            if common:
                assert after.calls[0].prompt[:common] == after.calls[index].prompt[:common]


def test_a_simulation_beside_itself_has_no_errors() -> None:
    done = run()
    assert all(figure.error == 0 and figure.met for figure in compare([done, done], done))
    profile = load_profile(PROFILE)
    blamed = causes(done, done, replay(done, profile, WORKER), 1e-4)
    assert blamed.pop("step time") == pytest.approx(0, abs=0.02)
    assert blamed.pop("what is batched with what") == pytest.approx(0, abs=0.02)
    assert set(blamed.values()) == {0.0}


def test_a_slower_network_is_blamed_on_the_network() -> None:
    real, model = run(NETWORK), run(10 * NETWORK)
    profile = load_profile(PROFILE)
    blamed = causes(real, model, replay(real, profile, WORKER), 1e-4)
    figures = {figure.name: figure for figure in compare([real], model)}
    too_much = figures["JCT mean"].simulated - figures["JCT mean"].real
    assert sum(blamed.values()) == pytest.approx(too_much)
    # Two of the messages before a first token are part of waiting, and two are not.
    assert blamed["gateway, rpc and client"] > 0.1
    assert blamed["queue"] > 0.1
    assert blamed["step time"] == pytest.approx(0, abs=0.02)


def test_a_faster_engine_is_blamed_on_step_times() -> None:
    real, profile = run(), load_profile(PROFILE)
    faster = dataclasses.replace(profile, linear_ms=tuple((n, 0.5 * ms) for n, ms in profile.linear_ms))
    blamed = causes(real, real, replay(real, faster, WORKER), 1e-4)
    assert blamed["step time"] < -0.1
    assert blamed["what is batched with what"] == pytest.approx(-blamed["step time"])
