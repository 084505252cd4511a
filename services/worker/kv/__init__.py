"""The worker's side of the KV pool: blocks between vLLM's cache and the pool's shared memory.

Everything here lives in vLLM's EngineCore (and, with tensor parallelism, in its worker processes); `namespace.revision`
and `params` are also used by the worker process. Nothing here may create a gRPC object or a thread while it is
imported: on a CPU the EngineCore is forked after that.
"""
