"""What placed calls have in common takes room once, and is computed once."""

from tests.scheduler.stage import Stage

STEM = range(200)
"""Of 3,200 tokens."""


def test_a_fan_out_in_line_takes_the_room_that_its_calls_need_together() -> None:
    """Each branch was judged when its stem was nowhere; with the first one placed, the others need a block each."""
    stage = Stage(admission="open")
    stage.join(seqs=8, blocks=300)
    stage.submit("busy", "busy", prompt=4000, blocks=range(5000, 5250))
    for i in range(7):
        stage.submit(f"c{i}", "fan", blocks=STEM)
    assert stage.order == ["busy"]
    stage.finish("busy", "busy")
    assert stage.order == ["busy", *(f"c{i}" for i in range(7))]


def test_a_branch_goes_where_its_stem_is_about_to_be() -> None:
    stage = Stage(admission="open", lookahead_calls=0)
    for worker_id in ("a", "b"):
        stage.join(worker_id, seqs=8, prefill=1000.0, step=0.01)
    stage.submit("other", "other", prompt=1600)
    stage.submit("c1", "fan", blocks=STEM)
    stage.submit("c2", "fan", blocks=[*STEM, 999])
    _, first, second = stage.placed
    assert (second.worker_id, second.expected_cached_tokens) == (first.worker_id, 16 * 200)


def test_a_worker_whose_blocks_are_longer_gives_up_what_it_took() -> None:
    """The call's prompt grows by what it generated before it was lost."""
    stage = Stage()
    stage.join(seqs=8, block_size=32)
    stage.submit("c1", prompt=100, blocks=range(6))
    stage.lose("c1", 1, generated=100)
    stage.finish("c1")
    assert stage.order == ["c1", "c1"]
