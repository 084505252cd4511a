"""`python -m services.worker.tiny_model DIR`: makes the tiny Llama that tests and the demo serve. Offline, no torch.

The same bytes on every machine; a directory that is up to date is left alone. The weights (`tiny_weights`) are wired so
that greedy output is lively, depends on the prompt, and does not depend on how calls are batched.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from services.worker import tiny_corpus, tiny_weights

VOCAB_SIZE = 768
MAX_MODEL_LEN = 32768
WIDE = 4096
"""Width of an MLP whose steps take so long that engines are what is waited for, not the services around them."""
END = "<|im_end|>"
SPECIAL = ("<|endoftext|>", "<|im_start|>", END)
MARKUP = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
"""Single tokens that stay visible in decoded text, as in the Qwen family."""

CHAT_TEMPLATE = """\
{%- macro system_text() %}{% if messages and messages[0].role == 'system' %}{{ messages[0].content }}\
{% else %}You are a helpful assistant.{% endif %}{% endmacro -%}
{{- '<|im_start|>system\\n' + system_text() }}
{%- if tools %}
{{- '\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are provided with \
function signatures within <tools></tools> XML tags:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{% endfor %}
{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n\
</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '' if loop.previtem and loop.previtem.role == 'tool' else '<|im_start|>user' }}
{{- '\\n<tool_response>\\n' + (message.content or '') + '\\n</tool_response>' }}
{{- '' if loop.nextitem and loop.nextitem.role == 'tool' else '<|im_end|>\\n' }}
{%- elif not (message.role == 'system' and loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for tool_call in message.tool_calls or [] %}
{%- set function = tool_call.function or tool_call %}
{{- '\\n' if message.content or not loop.first else '' }}
{{- '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' }}
{{- function.arguments if function.arguments is string else (function.arguments | tojson) }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""


def make(directory: Path, intermediate: int = tiny_weights.INTERMEDIATE) -> bool:
    """Write the model into `directory`. False when it was already there, from this very code.

    `intermediate`: a wider MLP makes its steps longer, and says the same.
    """
    stamp = directory / "legato.json"
    wanted = json.dumps({"made_from": _fingerprint(), "intermediate": intermediate})
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return False
    directory.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    weights = tiny_weights.build(_emitted(tokenizer), _closing(tokenizer), VOCAB_SIZE, intermediate)
    tiny_weights.save_bfloat16(directory / "model.safetensors", weights)
    for name, value in _configs(tokenizer, intermediate).items():
        (directory / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    stamp.write_text(wanted, encoding="utf-8")
    return True


def _fingerprint() -> str:
    sources = (__file__, tiny_weights.__file__, tiny_corpus.__file__)
    return hashlib.sha256(b"".join(Path(source).read_bytes() for source in sources)).hexdigest()


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(MARKUP),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tiny_corpus.lines(), trainer)
    tokenizer.add_tokens(  # pyright: ignore[reportUnknownMemberType] (its list is untyped)
        [AddedToken(text, normalized=False, special=False) for text in MARKUP]
    )
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise RuntimeError(f"the corpus gives {tokenizer.get_vocab_size()} tokens, not {VOCAB_SIZE}")
    return tokenizer


def _emitted(tokenizer: Tokenizer) -> dict[int, int]:
    """What the model says of its own accord, token id -> weight: words, quotes often (so JSON strings end), the end."""
    words = frozenset(tiny_corpus.WORDS)
    weights: dict[int, int] = {}
    for text, token in sorted(tokenizer.get_vocab().items()):
        decoded = tokenizer.decode([token], skip_special_tokens=False)
        if text == END or '"' in decoded:
            weights[token] = 2 if text == END else 4
        elif decoded in (".", ",", ":", "?", " a") or (decoded.startswith(" ") and decoded.strip() in words):
            weights[token] = 1
    return weights


def _closing(tokenizer: Tokenizer) -> list[int]:
    """Tokens that begin by ending a JSON array or object."""
    return [token for text, token in sorted(tokenizer.get_vocab().items()) if text[0] in "]}"]


def _configs(tokenizer: Tokenizer, intermediate: int) -> dict[str, dict[str, Any]]:
    end, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(SPECIAL[0])
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": MAX_MODEL_LEN,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "use_cache": True,
        **tiny_weights.SHAPE,
        "intermediate_size": intermediate,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_MODEL_LEN,
        "eos_token": END,
        "pad_token": SPECIAL[0],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    generation = {"eos_token_id": end, "pad_token_id": pad}
    return {"config.json": config, "tokenizer_config.json": tokenizer_config, "generation_config.json": generation}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m services.worker.tiny_model DIR")
    made = make(Path(sys.argv[1]))
    sys.stdout.write(f"{sys.argv[1]}: {'made' if made else 'up to date'}\n")
