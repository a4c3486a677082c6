"""The transformers library as a side: `generate` in bfloat16 on a Hugging Face folder."""

import time

import task as protocol
import torch
import transformers
from task import Answer, Task


def measure(task: Task) -> Answer:
    """Decode and prefill, greedy, with the cache that the library chooses."""
    torch.set_num_threads(task.threads)
    transformers.logging.set_verbosity_error()
    began = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.bfloat16).eval()
    load_s = time.perf_counter() - began

    def generate(prompts: list[list[int]], tokens: int) -> None:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip

    return Answer(
        protocol.measure_generate(task, generate, load_s), {"runner": "transformers, torch bfloat16, eager"}
    )


if __name__ == "__main__":
    protocol.main(measure)
