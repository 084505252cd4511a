"""The error table."""

import grpc
import pytest

from services.common.errors import Failure, Reason, reason_named


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_status_in_both_protocols(reason: Reason):
    assert grpc.StatusCode[reason.grpc_status] is not grpc.StatusCode.OK
    assert 400 <= reason.http_status < 600
    assert reason.kind.endswith("_error")


def test_reasons_with_equal_rows_are_distinct():
    assert len({reason.name for reason in Reason}) == len(Reason.__members__)
    assert Reason.NO_WORKER is not Reason.NO_SCHEDULER


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_found_by_its_name(reason: Reason):
    assert reason_named(reason.name) is reason


def test_a_reason_of_a_later_version_is_internal():
    assert reason_named("ON_FIRE") is Reason.INTERNAL


def test_a_failure_reads_as_reason_and_message():
    assert str(Failure(Reason.QUEUE_FULL, "10 calls wait")) == "QUEUE_FULL: 10 calls wait"
