"""Legato beside others on real engines: the same vLLM, the same KV memory, the same programs."""
