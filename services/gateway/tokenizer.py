"""A model's tokenizer: text to token ids, remembering the ids of text that was seen before.

An agent's prompt grows a little at its end with every turn, so most of it was tokenized before. Text is cut in front of
special tokens, where tokenizers begin anew whatever stands around (they take special tokens out first and treat what
is between them on its own), and the ids of each part are kept by content. The result equals that of a full encode.
Tokenizers whose special tokens depend on their neighbours are never cut. Safe to use from several threads.
"""

import re
from array import array
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from services.common.errors import Failure, Reason
from services.common.lru import ByteLRU, digest

_MAX_PATTERN_TOKENS = 4096
_TOKEN_BYTES = 4


class CachingTokenizer:
    """The tokenizer in a tokenizer.json. `cache_bytes` bounds what it remembers."""

    def __init__(self, tokenizer: Tokenizer, cache_bytes: int) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._cut = _cut_pattern(list(tokenizer.get_added_tokens_decoder().values()))
        self._known: ByteLRU[array[int]] = ByteLRU(cache_bytes)
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> "array[int]":
        """Ids of rendered text: no special tokens are added. Raises Failure for text that is not Unicode."""
        ids = array("I")
        for part in self._parts(text):
            ids.extend(self._encode_part(part))
        return ids

    def encode_whole(self, text: str, *, add_special_tokens: bool = False) -> "array[int]":
        """The same without cuts or memory; `add_special_tokens`: such as the model's begin-of-text."""
        return array("I", self._encode([text], add_special_tokens)[0])

    @property
    def cached_bytes(self) -> int:
        """What is remembered now takes."""
        return self._known.size_bytes

    def _parts(self, text: str) -> Sequence[str]:
        if self._cut is None:
            return (text,)
        starts = [match.start() for match in self._cut.finditer(text)]
        if not starts:
            return (text,)
        bounds = [0, *starts] if starts[0] else starts
        return [text[start:end] for start, end in zip(bounds, [*bounds[1:], len(text)], strict=True)]

    def _encode_part(self, part: str) -> "array[int]":
        try:
            key = digest(part.encode())
        except UnicodeEncodeError:
            raise Failure(Reason.INVALID_ARGUMENT, "the text holds lone surrogates, which are no characters") from None
        known = self._known.get(key)
        if known is None:
            known = array("I", self._encode([part], False)[0])
            self._known.put(key, known, len(known) * _TOKEN_BYTES)
        return known

    def _encode(self, texts: list[str], add_special_tokens: bool) -> list[list[int]]:
        try:
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        except TypeError:
            raise Failure(Reason.INVALID_ARGUMENT, "the text holds lone surrogates, which are no characters") from None
        return [encoding.ids for encoding in encodings]


def load_tokenizer(model_path: Path, cache_bytes: int) -> CachingTokenizer:
    """The tokenizer of the model in that directory. Raises OSError or ValueError when there is none."""
    file = model_path / "tokenizer.json"
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; convert the model's tokenizer to the tokenizers format")
    return CachingTokenizer(Tokenizer.from_file(str(file)), cache_bytes)


def _cut_pattern(added: Sequence[AddedToken]) -> re.Pattern[str] | None:
    """Finds where text may be cut: in front of each added token that is found as it stands, whatever surrounds it.

    All added tokens that tokenizers look for in raw text take part, the longest first, since the leftmost longest wins.
    """
    literal = [token.content for token in added if not token.normalized]
    shy = any(token.lstrip or token.rstrip or token.single_word for token in added)
    if not literal or shy or len(literal) > _MAX_PATTERN_TOKENS:
        return None
    return re.compile("|".join(re.escape(text) for text in sorted(literal, key=len, reverse=True)))
