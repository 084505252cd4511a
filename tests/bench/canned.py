"""Recorded runs made up by hand."""

from sim.trace import Call, Measured, Program, Segment

SEGMENTS = (Segment("s", 10), Segment("t", 5))


def call(id: int, parents: tuple[int, ...], start_s: float, parts: tuple[float, float, float], other_s: float = 0.0):
    """A call that queued, prefilled and decoded for `parts` seconds, from `start_s` after its program's arrival."""
    queue_s, prefill_s, decode_s = parts
    measured = Measured(
        start_s=start_s,
        llm_s=sum(parts) + other_s,
        ttft_s=queue_s + prefill_s,
        rec_in=100,
        rec_out=8,
        rec_cached=40,
        queue_s=queue_s,
        prefill_s=prefill_s,
        decode_s=decode_s,
    )
    return Call(id, "main", 0, parents, (0, 1), 8, measured=measured)


def diamond(number: int = 0, queue_s: float = 1.0, workload: str = "map_reduce") -> Program:
    """One call, then two side by side of which the second ends last, then a join half a second later."""
    first = call(0, (), 0.0, (queue_s, 0.5, 1.0))
    end = queue_s + 1.5
    calls = (
        first,
        call(1, (0,), end, (0.0, 0.5, 0.5)),
        call(2, (0,), end, (queue_s, 0.5, 2.0)),
        call(3, (1, 2), end + queue_s + 3.0, (0.0, 0.25, 0.25), other_s=0.1),
    )
    return Program(f"p{number}", workload, SEGMENTS, calls, arrival_s=0.1 * number)


def runs() -> dict[str, list[Program]]:
    """Twelve programs of two shapes under two policies; the second queues half as long."""
    shapes = ("map_reduce", "react")
    return {
        name: [diamond(number, share * (1 + number), shapes[number % 2]) for number in range(12)]
        for name, share in (("fcfs", 1.0), ("atlas", 0.5))
    }
