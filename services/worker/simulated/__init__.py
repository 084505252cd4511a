"""The simulated engine: vLLM's batching and caching with a cost model in place of the GPU."""
