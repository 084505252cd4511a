"""The vLLM engine: `AsyncLLM` behind the engine interface, unforked.

Import `environment` and call its `prepare` before anything else in this package: vLLM and torch read the environment
while they are imported.
"""
