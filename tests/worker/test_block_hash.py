"""Block hashes are vLLM's, chained and salted."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import block_hash
from services.common.block_hash import block_hashes, full_hashes, short

tokens = st.lists(st.integers(0, 200_000), max_size=100)


@given(tokens, st.integers(1, 17))
def test_each_full_block_has_a_hash_and_a_longer_prompt_extends_it(token_ids: list[int], block_size: int) -> None:
    hashes = block_hashes(token_ids, block_size)
    assert len(hashes) == len(token_ids) // block_size
    assert block_hashes([*token_ids, *range(block_size)], block_size)[: len(hashes)] == hashes


@given(tokens, st.integers(0, 100))
def test_a_known_parent_saves_the_prefix(token_ids: list[int], start: int) -> None:
    start -= start % 4
    whole = list(full_hashes(token_ids, 4, "tenant"))
    known = start // 4
    if 0 < known <= len(whole):
        assert list(full_hashes(token_ids[start:], 4, "tenant", parent=whole[known - 1])) == whole[known:]


def test_another_salt_gives_a_chain_with_nothing_in_common() -> None:
    token_ids = list(range(64))
    assert not set(block_hashes(token_ids, 16)) & set(block_hashes(token_ids, 16, "tenant"))


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")  # importing torch and vLLM warns of their own affairs
@pytest.mark.parametrize("salt", ["", "tenant a"])
def test_vllm_computes_the_same(monkeypatch: pytest.MonkeyPatch, salt: str) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from vllm.utils.hashing import sha256_cbor
    from vllm.v1.core import kv_cache_utils

    monkeypatch.setitem(os.environ, "PYTHONHASHSEED", block_hash.SEED)
    kv_cache_utils.init_none_hash(sha256_cbor)
    parent, expected = None, list[int]()
    token_ids = [(i * 7919) % 768 for i in range(100)]
    extra = (("cache_salt", salt),) if salt else None
    for start in range(0, 96, 32):
        parent = kv_cache_utils.hash_block_tokens(sha256_cbor, parent, token_ids[start : start + 32], extra)
        extra = None
        expected.append(int(kv_cache_utils.maybe_convert_block_hash(parent)))
    assert block_hashes(token_ids, 32, salt) == expected
    assert expected[-1] == short(parent or b"")
