"""How much memory a device has left. In: a torch device.  Out: bytes, for the checks of plan/memory."""

import torch


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can be taken on a card; None where models lie in main memory, which plan/memory knows."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
