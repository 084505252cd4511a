"""The cost model gives the published figures."""

import pytest

from services.worker.simulated.cost import load_profile, names

# Prefill tokens per second of one step of 2k, 8k and 32k; decode milliseconds alone, 32 x 2k and 128 x 2k.
FIGURES = {
    "llama3-8b@a100-tp1": ((13_300, 12_600, 8_800), (11.4, 19.2, 41.3)),
    "llama3-8b@h100-tp1": ((43_000, 36_000, 22_700), (7.4, 11.4, 23.4)),
    "llama3-70b@a100-tp4": ((5_100, 5_060, 4_050), (29.6, 35.9, 58.1)),
    "llama3-70b@h100-tp4": ((14_100, 13_300, 10_500), (17.6, 21.4, 30.5)),
    "qwen2.5-14b@a100-tp1": ((7_700, 7_300, 5_000), (20.2, 30.5, 67.4)),
    "qwen2.5-14b@h100-tp1": ((22_000, 19_000, 12_000), (12.3, 17.9, 35.7)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_profile_gives_its_prefill_speeds(name: str) -> None:
    profile = load_profile(name)
    speeds = [tokens / profile.step_seconds(1, tokens, 0, tokens**2 / 2) for tokens in (2048, 8192, 32768)]
    assert speeds == pytest.approx(FIGURES[name][0], rel=0.04)


@pytest.mark.parametrize("name", FIGURES)
def test_a_profile_gives_its_decode_times(name: str) -> None:
    profile = load_profile(name)
    times = [1e3 * profile.step_seconds(batch, batch, batch * 2048, 0) for batch in (1, 32, 128)]
    assert times == pytest.approx(FIGURES[name][1], rel=0.04)


def test_kv_is_loaded_over_all_links_at_once() -> None:
    """8,192 tokens take 43 ms and 27 ms."""
    for name, seconds in (("llama3-8b@a100-tp1", 0.043), ("llama3-70b@a100-tp4", 0.027)):
        assert 8192 / load_profile(name).load_tokens_per_second == pytest.approx(seconds, rel=0.03)


def test_every_profile_loads_and_slows_down_with_load() -> None:
    assert set(FIGURES) < set(names())
    for name in names():
        profile = load_profile(name)
        times = [profile.step_seconds(n, n * 16, n * 1000, n * 1e5) for n in (1, 10, 100, 1000)]
        assert times == sorted(times)


def test_the_demo_profile_resembles_a_small_cpu() -> None:
    profile = load_profile("tiny-cpu")
    assert 16 / profile.step_seconds(16, 16, 16 * 500, 0) == pytest.approx(3000, rel=0.1)
    assert 1024 / profile.step_seconds(1, 1024, 0, 1024**2 / 2) == pytest.approx(10_000, rel=0.1)


def test_an_unknown_profile_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        load_profile("gpt-9")
