"""Weights of the tiny model: a Llama wired by hand so that the next token is a hash of earlier ones.

Every token has a residue modulo RESIDUES, held in the residual stream as the phases of NUM_PHASES frequencies. Layer l
attends to the token OFFSETS[l] back, by relative position alone, and its MLP turns the state by what it found: phases
add, so residues add. After four layers the state is the sum of the residues of sixteen tokens, up to 552 back, and
the output row of the token owning that residue wins by a wide margin: several units, where bfloat16 rounding is
hundredths. So output is aperiodic, depends on the prompt and on its KV, and is the same in every batch.

Products in the MLP are exact: silu(x) y + silu(-x) (-y) = x y.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_SIZE = 256, 512, 4, 2, 64
OFFSETS = (1, 5, 37, 509)
RESIDUES = 256
NUM_PHASES = HEAD_SIZE // 2
SEED = 99
ROPE_THETA = 10_000.0
SHARPNESS = 20.0
"""Nats of attention score per rotary frequency; the neighbours of the wanted offset lose by about as many."""
NEARBY = (0.5, 0.85, 0.9, 0.86)
"""Height of a second peak, at the position itself, that wins while the context is shorter than the layer's offset."""
TOP_LOGIT = 8.0
NEVER = -6.0
"""Logit of tokens that the model never says on its own."""
CLOSING = 2.0
"""Logit of tokens that end a JSON array or object: above all but what the state calls for."""

SHAPE: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": len(OFFSETS),
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_SIZE,
    "rms_norm_eps": 1e-5,
    "rope_theta": ROPE_THETA,
}

STATE = np.arange(0, 2 * NUM_PHASES)
"""Residual dimensions of the state: cosines, then sines."""
FOUND = STATE + 2 * NUM_PHASES
"""What attention found."""
ONE = 4 * NUM_PHASES
"""Always 1."""


def build(
    emitted: Mapping[int, int], closing: Sequence[int], vocab_size: int, intermediate: int = INTERMEDIATE
) -> dict[str, Array]:
    """All tensors, by their Hugging Face names. A wider MLP (`intermediate`, at least what is used) costs time alone.

    `emitted`: the tokens that the model says of its own accord, with how many residues each owns at least. The others
    appear only where a grammar leaves nothing better. It likes the `closing` ones, so that JSON ends.
    """
    random = np.random.default_rng(SEED)
    frequencies = 1 + random.choice(RESIDUES // 2 - 1, NUM_PHASES, replace=False)
    embedding = np.zeros((vocab_size, HIDDEN), np.float32)
    embedding[:, STATE] = _phases(random.permutation(vocab_size) % RESIDUES, frequencies)
    embedding[:, ONE] = 1
    tensors = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": _norm(found=False),
        "lm_head.weight": _head(emitted, closing, vocab_size, frequencies, random),
    }
    for layer, (offset, nearby) in enumerate(zip(OFFSETS, NEARBY, strict=True)):
        parts = _attention(offset, nearby, layer % KV_HEADS) | _turn(intermediate)
        tensors |= {f"model.layers.{layer}.{name}": value for name, value in parts.items()}
    return tensors


def _phases(residues: npt.NDArray[np.int64], frequencies: npt.NDArray[np.int64]) -> Array:
    """Shape (len(residues), 2 NUM_PHASES)."""
    angles = 2 * np.pi / RESIDUES * ((residues[:, None] * frequencies[None, :]) % RESIDUES)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def _head(
    emitted: Mapping[int, int],
    closing: Sequence[int],
    vocab_size: int,
    frequencies: npt.NDArray[np.int64],
    random: np.random.Generator,
) -> Array:
    owners = np.repeat(list(emitted), list(emitted.values()))
    spare = random.permutation([token for token, weight in emitted.items() if weight == 1])
    owners = random.permutation(np.resize(np.concatenate([owners, spare]), RESIDUES))
    rows = _phases(np.arange(RESIDUES), frequencies) * (TOP_LOGIT / NUM_PHASES)
    head = np.zeros((vocab_size, HIDDEN), np.float32)
    np.add.at(head, (owners[:, None], STATE[None, :]), rows)
    silent = np.setdiff1d(np.arange(vocab_size), owners)
    head[silent[:, None], STATE[None, :]] = rows[random.integers(RESIDUES, size=len(silent))] / 4
    head[silent, ONE] = NEVER
    head[list(closing), ONE] = CLOSING
    return head


def _attention(offset: int, nearby: float, kv_head: int) -> dict[str, Array]:
    query, key = _position_pair(offset, nearby)
    head = kv_head * (HEADS // KV_HEADS)
    tensors = {
        "input_layernorm.weight": _norm(found=False),
        "self_attn.q_proj.weight": np.zeros((HEADS * HEAD_SIZE, HIDDEN), np.float32),
        "self_attn.k_proj.weight": np.zeros((KV_HEADS * HEAD_SIZE, HIDDEN), np.float32),
        "self_attn.v_proj.weight": np.zeros((KV_HEADS * HEAD_SIZE, HIDDEN), np.float32),
        "self_attn.o_proj.weight": np.zeros((HIDDEN, HEADS * HEAD_SIZE), np.float32),
        "post_attention_layernorm.weight": _norm(found=True),
    }
    within = np.arange(HEAD_SIZE)
    tensors["self_attn.q_proj.weight"][head * HEAD_SIZE + within, ONE] = query
    tensors["self_attn.k_proj.weight"][kv_head * HEAD_SIZE + within, ONE] = key
    tensors["self_attn.v_proj.weight"][kv_head * HEAD_SIZE + within, STATE] = 1
    tensors["self_attn.o_proj.weight"][FOUND, head * HEAD_SIZE + within] = 1
    return tensors


def _position_pair(offset: int, nearby: float) -> tuple[Array, Array]:
    """Query and key (before rotary embedding) whose product is largest at distance `offset`."""
    angles = ROPE_THETA ** (-np.arange(HEAD_SIZE // 2) / (HEAD_SIZE // 2))
    length = np.sqrt(SHARPNESS * np.sqrt(HEAD_SIZE))
    key = np.concatenate([np.full(HEAD_SIZE // 2, length), np.zeros(HEAD_SIZE // 2)])
    turned = np.concatenate([np.cos(angles * offset), -np.sin(angles * offset)]) * length
    return (turned + nearby * key).astype(np.float32), key.astype(np.float32)


def _turn(intermediate: int) -> dict[str, Array]:
    """MLP: STATE becomes STATE turned by FOUND, FOUND becomes 0."""
    cosines, sines = STATE[:NUM_PHASES], STATE[NUM_PHASES:]
    found_cosines, found_sines = FOUND[:NUM_PHASES], FOUND[NUM_PHASES:]
    terms = [  # target += sign * left * right
        (cosines, 1, cosines, found_cosines),
        (cosines, -1, sines, found_sines),
        (sines, 1, sines, found_cosines),
        (sines, 1, cosines, found_sines),
    ]
    terms += [(dims, -1, dims, np.full(NUM_PHASES, ONE)) for dims in (cosines, sines, found_cosines, found_sines)]
    gate, up = np.zeros((2, intermediate, HIDDEN), np.float32)
    down = np.zeros((HIDDEN, intermediate), np.float32)
    for i, (target, sign, left, right) in enumerate(terms):
        for side, start in ((1, 2 * i), (-1, 2 * i + 1)):
            units = np.arange(NUM_PHASES) + start * NUM_PHASES
            gate[units, left] = side
            up[units, right] = side
            down[target, units] = sign
    return {"mlp.gate_proj.weight": gate, "mlp.up_proj.weight": up, "mlp.down_proj.weight": down}


def _norm(*, found: bool) -> Array:
    """Undoes the RMS normalisation of a stream that holds STATE and ONE, and FOUND where it was just filled."""
    mean_square = (NUM_PHASES * (2 if found else 1) + 1) / HIDDEN
    return np.full(HIDDEN, np.sqrt(mean_square), np.float32)


def save_bfloat16(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write a safetensors file, rounding to nearest even."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    chunks: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        bits = np.ascontiguousarray(tensors[name], dtype="<f4").view("<u4")
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        chunks.append(rounded.tobytes())
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + len(chunks[-1])],
        }
        offset += len(chunks[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(chunks))
