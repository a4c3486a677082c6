"""Run requests through an engine's step loop, for the tests that compare engines."""

from tuition.engine.request import Completion, Request, complete
from tuition.engine.step import StepLoop


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
