"""When a call's program is expected to be complete, as the caller is told."""

from legato.v1 import call_pb2

_HEADER = "x-legato-program-eta"


def aged(eta: call_pb2.Eta, seconds: float) -> call_pb2.Eta:
    """What is left of it so long after it was said."""
    return call_pb2.Eta(
        expected_seconds=max(0.0, eta.expected_seconds - seconds),
        low_seconds=max(0.0, eta.low_seconds - seconds),
        high_seconds=max(0.0, eta.high_seconds - seconds),
    )


def headers_of(eta: call_pb2.Eta | None) -> dict[str, str]:
    """The mean, and the interval in which it lies with a chance of 0.8. Nothing where nothing is known."""
    if eta is None:
        return {}
    return {
        f"{_HEADER}-seconds": f"{eta.expected_seconds:.3f}",
        f"{_HEADER}-low-seconds": f"{eta.low_seconds:.3f}",
        f"{_HEADER}-high-seconds": f"{eta.high_seconds:.3f}",
    }
