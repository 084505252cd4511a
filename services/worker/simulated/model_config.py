"""What a model's directory says about the model, beside its tokenizer."""

import json
from pathlib import Path
from typing import Any


def end_token(directory: Path) -> int | None:
    """The end-of-sequence token; the first, if there are several; None when none is named."""
    for name in ("generation_config.json", "config.json"):
        match _read(directory / name).get("eos_token_id"):
            case int(end) | [int(end), *_]:
                return end
            case _:
                pass
    return None


def max_position(directory: Path) -> int | None:
    """The longest sequence that the model allows; None when it does not say."""
    match _read(directory / "config.json").get("max_position_embeddings"):
        case int(length):
            return length
        case _:
            return None


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
