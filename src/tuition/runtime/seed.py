"""Random numbers of a process: seeded, saved as tensors, restored.

In: a seed, or tensors of an earlier state.  Out: torch's generators in that state. The loader's order does
not come from here; it is a function of (seed, epoch, step).
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def seed_all(seed: int) -> None:
    """Seed torch on every device."""
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """States of the CPU's generator and of `device`'s, as byte tensors by name."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put the generators back; a state of another kind of device is left out."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"].cpu())
