"""The demo's settings, chosen by a small sweep on plays that are neither taught nor held out. No torch here.

In: the name of a demo corpus and a budget.  Out: `TrainSettings`. Why these: bench/sweep_demo.py, one row
for each choice, and runs of the demo's length in docs/lab-log.md.
"""

from typing import Literal

from tuition.data.settings import DataSettings
from tuition.train.settings import (
    CheckpointSettings,
    EvaluationSettings,
    OptimizerSettings,
    ShapeSettings,
    TrainSettings,
)

NAMES = {"shakespeare": "bard", "stdlib": "snake"}
"""What the model of each corpus is called."""

PROMPTS = {"shakespeare": ("JULIET.\n",), "stdlib": ("def ",)}
"""How the samples on the way begin."""


def demo_settings(corpus: Literal["shakespeare", "stdlib"], budget: str) -> TrainSettings:
    """Settings for a small model of this corpus, taught within `budget` (a time with its unit, like 4min)."""
    return TrainSettings(
        name=NAMES[corpus],
        data=DataSettings(demo=corpus),
        vocab_size=2_048,
        shape=ShapeSettings(
            hidden_size=128, num_layers=4, num_heads=2, num_kv_heads=2, mlp_size=384, tied_head=False
        ),
        budget=budget,
        batch_size=4,
        seq_len=512,
        optimizer=OptimizerSettings(kind="muon", lr=1e-2, muon_lr=1e-2),
        checkpoints=CheckpointSettings(every="1min"),
        evaluation=EvaluationSettings(
            times=4, probe_bytes=24_576, sample_tokens=90, sample_prompts=PROMPTS[corpus]
        ),
    )
