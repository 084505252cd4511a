"""The namespace of an engine's KV: everything that must be equal for the bytes of a block to be usable elsewhere.

Where a model lies on the disk is no part of it, so hosts may keep it in different places. A model is told by the commit
of its Hugging Face snapshot, else by a digest of its configuration and samples of its weights, which takes
milliseconds however large they are.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import xxhash

from legato.v1 import kv_pb2

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
_SAMPLES = 16
_SAMPLE_BYTES = 4096


def identity(model_path: str, hf_config: object = None) -> tuple[str, str]:
    """(model, revision). The revision is empty when it cannot be known: a model by name, not from the hub's cache."""
    path = Path(model_path)
    if not path.is_dir():
        return model_path, str(getattr(hf_config, "_commit_hash", None) or "")
    path = path.resolve()
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        return path.parent.parent.name.removeprefix("models--").replace("--", "/"), path.name
    return path.name, digest(path)


def digest(directory: Path) -> str:
    """Of the configuration, of the weight files' names and sizes, and of their beginnings and samples throughout."""
    state = xxhash.xxh3_128()
    configuration = directory / "config.json"
    if configuration.exists():
        state.update(configuration.read_bytes())
    for file in sorted(path for path in directory.iterdir() if path.suffix in _WEIGHTS):
        num_bytes = file.stat().st_size
        state.update(f"{file.name}:{num_bytes};".encode())
        with file.open("rb") as content:
            for i in range(_SAMPLES):
                content.seek(max(0, num_bytes - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
                state.update(content.read(_SAMPLE_BYTES))
    return state.hexdigest()


def usable(config: "VllmConfig", kv_cache: "KVCacheConfig") -> bool:
    """Whether whole blocks of this engine mean the same as their hashes say: one group of plain attention layers,
    every rank with all layers and all tokens of a block."""
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    parallel = config.parallel_config
    groups = kv_cache.kv_cache_groups
    return (
        len(groups) == 1
        and isinstance(groups[0].kv_cache_spec, FullAttentionSpec)
        and groups[0].kv_cache_spec.block_size == config.cache_config.block_size
        and (kv_cache.hash_block_size or config.cache_config.block_size) == config.cache_config.block_size
        and parallel.pipeline_parallel_size == 1
        and parallel.decode_context_parallel_size == 1
        and parallel.prefill_context_parallel_size == 1
        and config.lora_config is None
    )


def namespace(
    config: "VllmConfig", kv_cache: "KVCacheConfig", model: str, revision: str, shard_bytes: int
) -> kv_pb2.KVNamespace:
    """Of an engine whose cache is set up; call where vLLM runs."""
    cache, model_config = config.cache_config, config.model_config
    dtype = str(model_config.dtype).removeprefix("torch.") if cache.cache_dtype == "auto" else str(cache.cache_dtype)
    return kv_pb2.KVNamespace(
        model=model,
        revision=revision,
        dtype=f"{dtype}/{model_config.dtype}".replace("torch.", ""),
        block_size=cache.block_size,
        layout=_layout(config, kv_cache),
        num_shards=config.parallel_config.tensor_parallel_size,
        platform=_platform(config),
        shard_bytes=shard_bytes,
    )


def _layout(config: "VllmConfig", kv_cache: "KVCacheConfig") -> str:
    import vllm
    from vllm.config import get_layers_from_vllm_config
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

    names = kv_cache.kv_cache_groups[0].layer_names
    layers: dict[str, Any] = cast(Any, get_layers_from_vllm_config)(config, AttentionLayerBase, names)
    backends = sorted({layer.get_attn_backend().get_name() for layer in layers.values()})
    inside = str(kv_cache.kv_cache_layout or "").replace("B", "").replace("L", "")
    return f"vllm-{vllm.__version__} {'+'.join(backends)} {inside} layers:{len(names)}"


def _platform(config: "VllmConfig") -> str:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return str(current_platform.device_type)
    from vllm.v1.attention.backends import cpu_attn

    size = config.model_config.get_head_size()
    isa = cast(Any, cpu_attn)._get_attn_isa(config.model_config.dtype, config.cache_config.block_size, size)
    return f"cpu {os.uname().machine} {isa}"
