"""What a profile says of model and machine that no step tells: sizes of the KV cache, copy speed."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from legato.v1 import worker_pb2

_COPY_BYTES = 256 << 20
_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one engine. Zeroes where the model's directory cannot be read from here."""

    layers: int
    hidden: int
    kv_tokens: int
    kv_bytes_per_token: int
    copy_bytes_per_second: float
    """Between the engine's KV memory and the host's."""

    @property
    def flops_per_pair(self) -> float:
        """Two products over the heads' width, a multiplication and an addition each."""
        return 4.0 * self.layers * self.hidden or 1.0


def facts(worker: worker_pb2.WorkerDescription, copy_bytes_per_second: float) -> Facts:
    """Of a worker, as it describes itself."""
    model = _model(Path(worker.model_path))
    layers, hidden = int(model.get("num_hidden_layers", 0)), int(model.get("hidden_size", 0))
    heads = int(model.get("num_attention_heads", 1))
    width = int(model.get("head_dim") or hidden // heads) * int(model.get("num_key_value_heads") or heads)
    size = _SIZES.get(model.get("torch_dtype") or model.get("dtype") or "", 2)
    # vLLM keeps one block for itself (block_pool.py: the null block).
    num_blocks = worker.num_blocks - (worker.engine == "vllm")
    per_token = worker.kv_block_bytes // worker.block_size or 2 * layers * width * size
    return Facts(layers, hidden, num_blocks * worker.block_size, per_token, copy_bytes_per_second)


def copy_speed() -> float:
    """Bytes per second from pinned host memory into the GPU where torch sees one, else within memory."""
    try:
        import torch
    except ModuleNotFoundError:
        torch = None
    if torch is not None and torch.cuda.is_available():
        source = torch.empty(_COPY_BYTES, dtype=torch.uint8).pin_memory()
        target = torch.empty_like(source, device="cuda")
        target.copy_(source)
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        return _COPY_BYTES / (time.perf_counter() - began)
    array = np.ones(_COPY_BYTES, np.uint8)
    other = np.zeros_like(array)
    began = time.perf_counter()
    other[:] = array
    return _COPY_BYTES / (time.perf_counter() - began)


def _model(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return config.get("text_config", config)
