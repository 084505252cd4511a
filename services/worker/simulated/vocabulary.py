"""What the simulated engine says its words with: a model's own tokenizer, or characters where there is none.

`openers` and `words` are tokens that stand for their text whatever surrounds them, and that the tokenizer gives back
when it reads that text again: so output can be streamed by table, and a follow-up prompt repeats the same tokens.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from services.worker.simulated.model_config import end_token

TOKENIZER = "tokenizer.json"
MAX_WORDS = 1024


class Word(NamedTuple):
    """A token and its text."""

    token_id: int
    text: str


class Vocabulary(Protocol):
    """Tokens and their text."""

    @property
    def openers(self) -> Sequence[Word]:
        """Tokens to begin with; not empty."""
        ...

    @property
    def words(self) -> Sequence[Word]:
        """Tokens to go on with; not empty."""
        ...

    @property
    def end(self) -> int | None:
        """The token that ends an output; None when there is none."""
        ...

    def encode(self, text: str) -> tuple[list[int], list[str]]:
        """Its tokens, and the text that each adds: whole characters only, together all of it."""
        ...

    def text(self, token_id: int) -> str:
        """A token by itself."""
        ...


class Characters:
    """Each character is a token; its id is its code point."""

    def __init__(self) -> None:
        self.words = [Word(ord(letter), letter) for letter in "etaoinshrdlu "]
        self.openers = self.words[:-1]
        self.end: int | None = 0

    def encode(self, text: str) -> tuple[list[int], list[str]]:
        return [ord(character) for character in text], list(text)

    def text(self, token_id: int) -> str:
        return chr(token_id) if 0 < token_id < 0x110000 else ""


class ModelVocabulary:
    """The tokenizer in a model's directory. Raises ValueError when it has no plain words."""

    def __init__(self, directory: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(directory / TOKENIZER))
        self._texts: dict[int, str] = {}
        self.end = end_token(directory)
        self.words = self._words(r" [A-Za-z]{2,}", r" ?[A-Za-z]+", r"[!-~]")
        self.openers = self._words(r"[A-Za-z]{2,}", r"[A-Za-z]", r"[!-~]")

    def encode(self, text: str) -> tuple[list[int], list[str]]:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        stream = DecodeStream(skip_special_tokens=False)
        return ids, [stream.step(self._tokenizer, token_id) or "" for token_id in ids]

    def text(self, token_id: int) -> str:
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text

    def _words(self, *patterns: str) -> list[Word]:
        """Tokens of the first of the patterns that finds some."""
        for pattern in patterns:
            found = [*self._matching(re.compile(pattern))]
            if found:
                return found
        raise ValueError("the tokenizer knows no plain word")

    def _matching(self, pattern: re.Pattern[str]) -> Iterator[Word]:
        """The first tokens, so the most frequent ones, of the pattern."""
        anchor = self._tokenizer.encode("a", add_special_tokens=False).ids
        # Some decoders strip the space of a word that stands first, so ask for what it adds to something before it.
        before = self._tokenizer.decode(anchor)
        leading = pattern.pattern.startswith(" ")
        num_found = 0
        for token_id in range(self._tokenizer.get_vocab_size()):
            after = self._tokenizer.decode([*anchor, token_id])
            text = after.removeprefix(before) if leading else self.text(token_id)
            if not after.startswith(before) or not pattern.fullmatch(text):
                continue
            if self._tokenizer.encode("a" * leading + text, add_special_tokens=False).ids[leading:] == [token_id]:
                yield Word(token_id, text)
                num_found += 1
                if num_found == MAX_WORDS:
                    return


def vocabulary(model_path: str) -> Vocabulary:
    """The vocabulary of the model there; characters where there is no tokenizer."""
    directory = Path(model_path)
    return ModelVocabulary(directory) if model_path and (directory / TOKENIZER).exists() else Characters()
