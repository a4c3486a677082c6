"""vLLM's build for processors as a side, on a Hugging Face folder in bfloat16, W8A8 or GPTQ of 4 bits.

Runs under vLLM's own Python.
"""

import os
import time

import task as protocol
from task import Answer, Task


def measure(task: Task) -> Answer:
    """Decode and prefill, greedy; compiled unless the task says eager."""
    cores = sorted(os.sched_getaffinity(0))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}-{cores[-1]}")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # its memory is then that of this process
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM, SamplingParams

    longest = max(task.prompt + task.generate, *task.prefill) + 8
    began = time.perf_counter()
    engine = LLM(
        task.model, dtype="bfloat16", max_model_len=longest, max_num_seqs=max(task.batches),
        enable_prefix_caching=False, enforce_eager=bool(task.options.get("eager")),
    )  # fmt: skip
    load_s = time.perf_counter() - began

    def generate(prompts: list[list[int]], tokens: int) -> None:
        settings = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        engine.generate([{"prompt_token_ids": ids} for ids in prompts], settings, use_tqdm=False)

    mode = "eager" if task.options.get("eager") else "compiled"
    return Answer(
        protocol.measure_generate(task, generate, load_s), {"runner": f"vLLM {task.precision}, {mode}"}
    )


if __name__ == "__main__":
    protocol.main(measure)
