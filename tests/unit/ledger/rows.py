"""Requests as they are billed, with the figures that a test cares about."""

from typing import Any

from tuition.core.request_record import RequestCost, RequestRecord


def record_of(cost: RequestCost, rate_id: int, **figures: Any) -> RequestRecord:
    """A request that was finished, with 3 tokens in and 1 out, unless `figures` say otherwise."""
    tokens = figures.pop("prompt_tokens", 3)
    values = {
        "model": "bard", "version": 1, "weights_digest": None, "api_key_id": None, "created_unix_ns": 1,
        "prompt_tokens": tokens, "input_tokens": tokens, "cached_tokens": 0, "generated_tokens": 1,
        "queue_ns": None, "first_token_ns": None, "total_ns": 5, "finish_reason": "stop",
    }  # fmt: skip
    return RequestRecord(cost=cost, rate_id=rate_id, **(values | figures))
