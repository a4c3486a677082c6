"""The block pool: which sequences hold which block of the cache, and which full blocks can be used again.

A block is free (no sequence holds it, and its content has no name), held (one or more sequences read it), or
kept (no sequence holds it, but its content has a name and a later prompt may begin with it). Only full blocks
have names, so a shared block is never written. Kept blocks are evicted least recently used first.
"""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence


class CacheIntegrityError(RuntimeError):
    """The pool's counts do not add up: this is a bug, found by `BlockPool.check`."""


def root_digest(salt: str, variant: bytes = b"") -> bytes:
    """Where the chain of names of a salt and a variant of the weights begins; no other pair shares a block.

    `variant`: the digest of its tensors, at most 64 bytes; empty for the weights as they are.
    """
    return hashlib.blake2b(
        salt.encode("utf-8", "surrogatepass"), digest_size=16, key=variant, person=b"tuition-salt"
    ).digest()


def chain_digest(parent: bytes, token_bytes: bytes) -> bytes:
    """Name of a full block: everything before it, and its tokens (int32, little endian)."""
    return hashlib.blake2b(parent + token_bytes, digest_size=16).digest()


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens. Not thread-safe: the engine's thread owns it."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self._holders = [0] * num_blocks
        self._names: list[bytes | None] = [None] * num_blocks
        self._known: dict[bytes, int] = {}
        self._free: deque[int] = deque(range(num_blocks))  # ascending, so that a lone sequence is contiguous
        self._kept: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Blocks that can be taken now: free and kept ones."""
        return len(self._free) + len(self._kept)

    @property
    def num_kept(self) -> int:
        """Blocks that no sequence holds and that a later prompt may use."""
        return len(self._kept)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks of unknown content, held once each; None, and no change, when there are too few."""
        if count > self.num_free:
            return None
        blocks = []
        for _ in range(count):
            if self._free:
                block = self._free.popleft()
            else:
                block, _ = self._kept.popitem(last=False)
                self._forget(block)
            self._holders[block] = 1
            blocks.append(block)
        return blocks

    def find(self, names: Iterable[bytes]) -> list[int]:
        """The blocks known by these names, up to the first unknown one; not held yet."""
        found = []
        for name in names:
            block = self._known.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def num_kept_among(self, blocks: Sequence[int]) -> int:
        """How many of these blocks are kept; they no longer count as free once they are held."""
        return sum(self._holders[block] == 0 for block in blocks)

    def hold(self, blocks: Sequence[int]) -> None:
        """One more holder for each of these known blocks."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._kept[block]
            self._holders[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One holder less for each. A chain is released from its end: more prompts share its beginning."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if self._names[block] is None:
                    self._free.append(block)
                else:
                    self._kept[block] = None
            elif self._holders[block] < 0:
                raise CacheIntegrityError(f"block {block} was released more often than it was held")

    def publish(self, block: int, name: bytes) -> None:
        """Give a full, held block its name. Where another block has this name, it stays private."""
        if name not in self._known and self._names[block] is None:
            self._known[name] = block
            self._names[block] = name

    def _forget(self, block: int) -> None:
        name = self._names[block]
        if name is not None:
            del self._known[name]
            self._names[block] = None

    def check(self, held: Iterable[Sequence[int]] = ()) -> None:
        """Count everything again; `held`: the blocks of each live sequence. Raises: CacheIntegrityError."""
        wanted = [0] * self.num_blocks
        for blocks in held:
            if len(set(blocks)) != len(blocks):
                raise CacheIntegrityError(f"one sequence holds a block twice: {list(blocks)}")
            for block in blocks:
                wanted[block] += 1
        if wanted != self._holders:
            wrong = [block for block in range(self.num_blocks) if wanted[block] != self._holders[block]][:8]
            raise CacheIntegrityError(f"holders are miscounted or leaked for blocks {wrong}")
        free, kept = set(self._free), set(self._kept)
        if len(free) != len(self._free) or free & kept:
            raise CacheIntegrityError("a block is free twice, or both free and kept")
        for block, holders in enumerate(self._holders):
            name = self._names[block]
            if name is not None and self._known.get(name) != block:
                raise CacheIntegrityError(f"block {block} has the name of another block")
            place = (holders > 0) + (block in free) + (block in kept)
            if place != 1 or (block in kept) != (holders == 0 and name is not None):
                raise CacheIntegrityError(f"block {block} has {holders} holders and {place} places")
        if len(self._known) != sum(name is not None for name in self._names):
            raise CacheIntegrityError("the table of names and the blocks disagree")
