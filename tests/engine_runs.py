"""Run requests through an engine's step loop, and merge a variant, for the tests that compare engines."""

import torch

from tuition.engine.request import Completion, Request, complete
from tuition.engine.step import StepLoop
from tuition.engine.variants import Variant
from tuition.model.decoder import Decoder


class SilentTokenizer:
    """Stands in for a tokenizer where only ids are compared."""

    def stream(self, skip_specials: bool = True, after: object = ()) -> "SilentTokenizer":
        return self

    def push(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def run(loop: StepLoop, requests: list[Request]) -> list[Completion]:
    """The replies to `requests`, submitted together; the loop checks itself after each step."""
    events: dict[str, list] = {request.id: [] for request in requests}
    for request in requests:
        loop.submit(request)
    while loop.has_work:
        for event in loop.step()[0]:
            events[event.request_id].append(event)
        loop.check()
    return [complete(events[request.id]) for request in requests]


def merged(decoder: Decoder, variant: Variant) -> Decoder:
    """A decoder of its own whose matrices are the sum."""
    result = Decoder(decoder.shape).requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    for name, change in variant.changes.items():
        state[name] += torch.from_numpy(change.up) @ torch.from_numpy(change.down)
    result.load_state_dict(state)
    return result
