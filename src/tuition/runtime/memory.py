"""How much memory a device has left. In: a torch device.  Out: bytes, for the checks of plan/memory."""

import torch


def free_bytes(device: torch.device) -> int | None:
    """Free bytes of a GPU; None where models use main memory, which plan/memory checks."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
