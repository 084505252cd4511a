"""Greedy token ids from vLLM used directly: `python -m tests.e2e.direct MODEL`.

Each line on stdin is {"prompts": [[token id, ...], ...], "max_tokens": n} and answered by a line: a list of lists of
token ids. It runs in a process of its own because vLLM sets up its process for good.
"""

import gc
import json
import os
import sys

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
os.environ["OMP_NUM_THREADS"] = "1"


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever vLLM prints is no answer
    gc.disable()  # what is imported stays, and looking through it takes seconds
    from vllm import LLM, SamplingParams, TokensPrompt

    gc.enable()
    engine = LLM(
        model=sys.argv[1],
        enforce_eager=True,
        dtype="bfloat16",
        max_model_len=4096,
        max_num_seqs=16,
        kv_cache_memory_bytes=64 << 20,
        block_size=32,
        disable_log_stats=True,
    )
    for line in sys.stdin:
        work = json.loads(line)
        sampling = SamplingParams(temperature=0, max_tokens=work["max_tokens"], ignore_eos=True, detokenize=False)
        prompts = [TokensPrompt(prompt_token_ids=prompt) for prompt in work["prompts"]]
        results = engine.generate(prompts, sampling, use_tqdm=False)  # pyright: ignore[reportUnknownMemberType] (tqdm)
        print(json.dumps([list(result.outputs[0].token_ids) for result in results]), file=answers, flush=True)


if __name__ == "__main__":
    main()
