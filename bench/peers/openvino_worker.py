"""OpenVINO GenAI as a side, on a GGUF file as it is. Runs under OpenVINO's own Python."""

import time

import numpy as np
import openvino
import openvino_genai
import task as protocol
from task import Answer, Task


def measure(task: Task) -> Answer:
    """Decode and prefill, greedy; several prompts are one batch."""
    began = time.perf_counter()
    pipeline = openvino_genai.LLMPipeline(task.model, "CPU", INFERENCE_NUM_THREADS=task.threads)
    load_s = time.perf_counter() - began

    def generate(prompts: list[list[int]], tokens: int) -> None:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = tokens
        config.ignore_eos, config.do_sample, config.apply_chat_template = True, False, False
        ids = np.array(prompts, dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        pipeline.generate(inputs, config)

    facts = {"runner": f"OpenVINO GenAI {openvino_genai.__version__}"}
    return Answer(protocol.measure_generate(task, generate, load_s), facts)


if __name__ == "__main__":
    protocol.main(measure)
