"""Which models there are."""

from tests.gateway.asking import CHAT, chat
from tests.gateway.conftest import Make


async def test_with_no_worker_at_all_no_model_is_said_not_to_exist(make_world: Make) -> None:
    """They may be about to come back, with any model."""
    async with make_world(num_workers=0) as world:
        status, body, headers = await world.post(CHAT, chat(model="gpt-9"))
    assert (status, body["error"]["code"]) == (503, "no_worker")
    assert "Retry-After" in headers
