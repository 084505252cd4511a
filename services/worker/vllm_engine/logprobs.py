"""Log probabilities as they travel."""

from collections.abc import Iterable, Iterator, Mapping

from tokenizers import pre_tokenizers
from vllm.logprobs import Logprob
from vllm.tokenizers import TokenizerLike

from legato.v1 import call_pb2

_REPLACEMENT = "\ufffd"


def token_logprobs(
    tokenizer: TokenizerLike, positions: Iterable[tuple[int, Mapping[int, Logprob] | None]], num_top: int
) -> Iterator[call_pb2.TokenLogprob]:
    """One for each (chosen token, candidates): vLLM's are the likeliest ones, and the chosen one in any case."""
    for token_id, candidates in positions:
        if candidates is None:
            continue
        ranked = sorted(candidates.items(), key=lambda item: item[1].rank or 0)
        top = [_token(tokenizer, candidate, found) for candidate, found in ranked[:num_top]]
        message = _token(tokenizer, token_id, candidates[token_id])
        message.top.extend(top)
        yield message


def _token(tokenizer: TokenizerLike, token_id: int, found: Logprob) -> call_pb2.TokenLogprob:
    text = found.decoded_token or ""
    message = call_pb2.TokenLogprob(token_id=token_id, logprob=found.logprob, token=text)
    if _REPLACEMENT in text:
        message.token_bytes = _bytes(str(tokenizer.convert_ids_to_tokens([token_id])[0]))
    return message


def _bytes(piece: str) -> bytes:
    """The bytes of a byte-level token, b"" where the vocabulary is of another kind."""
    return bytes(_BYTE_OF[char] for char in piece) if all(char in _BYTE_OF for char in piece) else b""


def _byte_level() -> dict[str, int]:
    """The byte-level alphabet: printable Latin-1 stands for itself, the other bytes follow from 256 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    table = {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
    assert set(table) == set(pre_tokenizers.ByteLevel.alphabet())
    return table


_BYTE_OF = _byte_level()
