"""The demo's settings, chosen by a small sweep on plays that are neither taught nor held out. No torch here.

In: the name of a demo corpus and a budget.  Out: settings of the loop and of pretraining. Why these:
bench/sweep_demo.py, one row for each choice, and runs of the demo's length in docs/lab-log.md.
"""

from typing import Literal

from tuition.data.settings import DataSettings
from tuition.train.recipes.pretrain_settings import EvaluationSettings, PretrainSettings, ShapeSettings
from tuition.train.settings import CheckpointSettings, OptimizerSettings, TrainSettings

NAMES = {"shakespeare": "bard", "stdlib": "snake"}
"""What the model of each corpus is called."""

PROMPTS = {"shakespeare": ("JULIET.\n",), "stdlib": ("def ",)}
"""How the samples on the way begin."""


Corpus = Literal["shakespeare", "stdlib"]


def demo_settings(corpus: Corpus, budget: str) -> TrainSettings:
    """How the loop trains, within `budget` (a time with its unit, like 4min)."""
    return TrainSettings(
        name=NAMES[corpus],
        budget=budget,
        optimizer=OptimizerSettings(kind="muon", lr=1e-2, muon_lr=1e-2),
        checkpoints=CheckpointSettings(every="1min"),
    )


def demo_recipe(corpus: Corpus) -> PretrainSettings:
    """What is taught: a small model of this corpus."""
    return PretrainSettings(
        data=DataSettings(demo=corpus),
        vocab_size=2_048,
        shape=ShapeSettings(
            hidden_size=128, num_layers=4, num_heads=2, num_kv_heads=2, mlp_size=384, tied_head=False
        ),
        batch_size=4,
        seq_len=512,
        evaluation=EvaluationSettings(
            times=4, probe_bytes=24_576, sample_tokens=90, sample_prompts=PROMPTS[corpus]
        ),
    )
