"""Short samples during training, which show how the model improves. Serving is the task of the engine.

In: a decoder, a tokenizer, a beginning.  Out: text. Keys and values are kept, so a sample costs one pass per
token.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.model.decoder import Decoder
from tuition.runtime.device import Precision
from tuition.tokenizer.tokenizer import Tokenizer


class GrowingContext:
    """One sequence whose keys and values are kept: each token sees itself and all before it."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._length, self._new = device, 0, 0
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def begin(self, num_new: int) -> "GrowingContext":
        """The next `num_new` tokens are about to be passed."""
        self._length, self._new = self._length + num_new, num_new
        return self

    @property
    def positions(self) -> Tensor:
        return torch.arange(self._length - self._new, self._length, device=self._device)[None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
        if layer in self._kept:
            old_key, old_value = self._kept[layer]
            key, value = torch.cat((old_key, key), dim=1), torch.cat((old_value, value), dim=1)
        self._kept[layer] = key, value
        order = torch.arange(key.shape[1], device=self._device)
        distance = self.positions[0][:, None] - order[None, :]  # (new, all)
        seen = (distance >= 0) & (distance < (window or self._length))
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=seen,
            enable_gqa=query.shape[2] != key.shape[2],
        )
        return attended.transpose(1, 2)


@dataclass(frozen=True)
class Drawing:
    """How a sample is drawn."""

    num_tokens: int
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0


@torch.no_grad()
def write_sample(
    model: Decoder, tokenizer: Tokenizer, prompt: str, how: Drawing, precision: Precision
) -> str:
    """Continue `prompt` (empty: begin a document) until `how.num_tokens`, the context or the document's end
    is reached.

    Returns the prompt and what follows. The process' own random numbers are not touched.
    """
    device = model.embedding.weight.device
    generator = torch.Generator().manual_seed(how.seed)
    ids = tokenizer.encode(prompt)
    start = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
    given = [*start, *ids] if ids[:1] != list(start) else ids
    context, written, was_training = GrowingContext(device), list(given), model.training
    model.eval()
    fresh = given or [0]
    for _ in range(min(how.num_tokens, model.shape.context_length - len(fresh))):
        with torch.autocast(device.type, precision.dtype, enabled=precision.is_autocast):
            hidden = model(torch.tensor([fresh], device=device), context.begin(len(fresh)))
            logits = model.logits(hidden[0, -1]).float().cpu()
        fresh = [draw(logits, how.temperature, how.top_p, generator)]
        if fresh[0] in tokenizer.eos_ids:
            break
        written += fresh
    model.train(was_training)
    return tokenizer.decode(written)


def draw(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One token id from (vocab,) logits: the likeliest at temperature 0, else drawn from the likeliest
    `top_p` share."""
    if temperature == 0:
        return int(logits.argmax())
    probabilities, order = torch.softmax(logits / temperature, dim=-1).sort(descending=True)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])
