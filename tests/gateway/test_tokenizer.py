"""Tokenizing in parts, and hashing in spans, give what doing it at once gives."""

from array import array
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from services.common.block_hash import block_hashes
from services.common.hash_cache import BlockHashes
from services.gateway.tokenizer import CachingTokenizer, load_tokenizer

SPECIAL = ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<|im_", "<<|im_end|>>", "<|x|>"]
PIECES = st.one_of(
    st.sampled_from(
        [*SPECIAL, "\n", "\n\n", " ", "  ", "user", "assistant", "system", "é", "日本", "🙂", "<", "|>", "1"]
    ),
    st.text(max_size=12),
)
TEXTS = st.lists(PIECES, max_size=40).map("".join).filter(lambda text: text.isascii() or _encodable(text))


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer)
    return tokenizer


def _metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    _train(tokenizer)
    return tokenizer


def _train(tokenizer: Tokenizer) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", *SPECIAL[:2]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["user assistant system tool call hello world agent"] * 20, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in SPECIAL[2:6]])  # pyright: ignore
    tokenizer.add_tokens([AddedToken(SPECIAL[6], normalized=True)])  # pyright: ignore


TOKENIZERS = {"byte level": _byte_level(), "metaspace": _metaspace()}


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_parts_give_what_the_whole_gives(kind: str, texts: list[str]) -> None:
    tokenizer = CachingTokenizer(TOKENIZERS[kind], cache_bytes=5000)
    conversation = ""
    for text in texts:
        conversation += text
        assert tokenizer.encode(conversation) == tokenizer.encode_whole(conversation)
        assert (
            list(tokenizer.encode(conversation)) == TOKENIZERS[kind].encode(conversation, add_special_tokens=False).ids
        )


@settings(max_examples=150)
@given(text=TEXTS)
def test_the_tiny_models_too(tiny: CachingTokenizer, text: str) -> None:
    assert tiny.encode(text) == tiny.encode_whole(text)


@pytest.fixture(scope="session")
def tiny(model_path: Path) -> CachingTokenizer:
    return load_tokenizer(model_path, 1 << 20)


def test_special_tokens_that_look_around_are_not_cut_at() -> None:
    tokenizer = _byte_level()
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])  # pyright: ignore
    cached = CachingTokenizer(tokenizer, 1 << 20)
    text = "a  <mask><|im_end|>  <mask> b"
    assert cached.encode(text) == cached.encode_whole(text)


@settings(max_examples=60)
@given(
    prompts=st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=400), min_size=1, max_size=3),
    block_size=st.sampled_from([1, 4]),
    salt=st.sampled_from(["", "acme"]),
)
def test_hashes_in_spans_are_the_hashes(prompts: list[list[int]], block_size: int, salt: str) -> None:
    hashes = BlockHashes(block_size, 100_000)
    conversation: list[int] = []
    for prompt in prompts:
        conversation += prompt
        for wanted in (salt, ""):
            assert list(hashes.of(array("I", conversation), wanted)) == block_hashes(conversation, block_size, wanted)


def test_what_is_remembered_stays_within_its_bound() -> None:
    tokenizer = CachingTokenizer(_byte_level(), cache_bytes=10_000)
    for number in range(500):
        tokenizer.encode(f"<|im_start|>turn {number}<|im_end|>")
    assert tokenizer.cached_bytes <= 10_000
