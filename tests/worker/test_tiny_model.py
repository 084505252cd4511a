"""The tiny model: made offline, the same everywhere, with a template that renders tools."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.worker import tiny_model, tiny_weights


def test_it_is_made_once_and_is_the_same_bytes_each_time(model_path: Path, tmp_path: Path) -> None:
    assert not tiny_model.make(model_path)
    again = tmp_path / "again"
    command = (sys.executable, "-m", "services.worker.tiny_model", str(again))
    subprocess.run(command, check=True, capture_output=True, env={"PYTHONHASHSEED": "7"})
    names = sorted(path.name for path in model_path.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    for name in names:
        assert (again / name).read_bytes() == (model_path / name).read_bytes(), name


def test_an_interrupted_or_outdated_one_is_made_again(tmp_path: Path) -> None:
    assert tiny_model.make(tmp_path)
    (tmp_path / "legato.json").write_text("{}")
    (tmp_path / "config.json").unlink()
    assert tiny_model.make(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == tiny_model.VOCAB_SIZE


@pytest.fixture(scope="module")
def tokenizer(model_path: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(model_path))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] (untyped)


def test_any_text_survives_the_tokenizer(tokenizer: Any) -> None:
    text = 'Crème brûlée, 東京, {"a": [1, 2]}\n\t<tool_call> 🎼'
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_token == "<|im_end|>"


def test_the_chat_template_speaks_hermes(tokenizer: Any) -> None:
    tool = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "search", "arguments": {"query": "x"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Find x."},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "two"},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Thanks."},
    ]
    text = tokenizer.apply_chat_template(messages, tools=[tool], add_generation_prompt=True, tokenize=False)
    assert text.count("<|im_start|>system") == 1
    assert "<tools>\n" + json.dumps(tool) + "\n</tools>" in text
    assert text.count('<tool_call>\n{"name": "search", "arguments": {"query": "x"}}\n</tool_call>') == 2
    responses = "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"
    assert f"<|im_start|>user\n{responses}<|im_end|>\n" in text
    assert text.endswith("<|im_start|>user\nThanks.<|im_end|>\n<|im_start|>assistant\n")
    assert len(tokenizer.encode("<tool_call>")) == 1


def test_a_longer_conversation_extends_the_shorter_one(tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    short = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
    long = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert long.startswith(short)


def test_a_wider_one_computes_more_and_says_the_same() -> None:
    narrow, wide = (tiny_weights.build({7: 1}, (), tiny_model.VOCAB_SIZE, width) for width in (512, 1024))
    assert narrow.keys() == wide.keys()
    for name, weights in narrow.items():
        padded = wide[name][tuple(slice(size) for size in weights.shape)]
        assert (padded == weights).all(), name
        assert wide[name].sum(dtype=np.float64) == weights.sum(dtype=np.float64), name
        assert (wide[name] != 0).sum() == (weights != 0).sum(), name
