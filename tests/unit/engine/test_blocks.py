"""The block pool: what is free, held and kept; and that its check finds planted faults."""

import pytest

from tuition.engine.blocks import BlockPool, CacheIntegrityError, chain_digest, root_digest


def published(pool: BlockPool, names: list[bytes]) -> list[int]:
    blocks = pool.take(len(names)) or []
    for block, name in zip(blocks, names, strict=True):
        pool.publish(block, name)
    return blocks


NAMES = [bytes([i]) * 16 for i in range(8)]


def test_names_depend_on_salt_and_on_everything_before() -> None:
    assert root_digest("a") != root_digest("b")
    assert chain_digest(root_digest("a"), b"tokens") != chain_digest(root_digest("b"), b"tokens")
    first = chain_digest(root_digest(""), b"one")
    assert chain_digest(first, b"two") != chain_digest(root_digest(""), b"two")
    assert root_digest("\ud800")  # a lone surrogate in a key's name stops nobody


def test_taking_is_all_or_nothing() -> None:
    pool = BlockPool(4, 16)
    assert pool.take(5) is None
    assert pool.take(3) == [0, 1, 2]
    assert pool.take(2) is None
    assert pool.num_free == 1


def test_known_blocks_are_kept_and_shared_until_room_is_needed() -> None:
    pool = BlockPool(4, 16)
    blocks = published(pool, NAMES[:3])
    pool.release(blocks)
    assert (pool.num_free, pool.num_kept) == (4, 3)
    assert pool.find(NAMES) == blocks
    pool.hold(blocks[:1])
    pool.hold(blocks[:1])
    pool.check([blocks[:1], blocks[:1]])
    taken = pool.take(3)
    assert taken is not None
    assert pool.find(NAMES) == blocks[:1]
    pool.release(blocks[:1])
    pool.check([blocks[:1], taken])


def test_the_end_of_a_chain_is_given_up_first() -> None:
    pool = BlockPool(3, 16)
    blocks = published(pool, NAMES[:3])
    pool.release(blocks)
    pool.take(1)
    assert pool.find(NAMES) == blocks[:2]


def test_the_least_recently_used_chain_is_given_up_first() -> None:
    pool = BlockPool(4, 16)
    first, second = published(pool, NAMES[:2]), published(pool, NAMES[2:4])
    pool.release(first)
    pool.release(second)
    pool.hold(first)
    pool.release(first)
    pool.take(2)
    assert pool.find(NAMES[:2]) == first
    assert pool.find(NAMES[2:4]) == []


def test_a_second_block_of_the_same_content_stays_private() -> None:
    pool = BlockPool(4, 16)
    one, two = published(pool, NAMES[:1]), published(pool, NAMES[:1])
    pool.release(two)
    assert pool.num_kept == 0
    pool.check([one])


class FaultyPool(BlockPool):
    """A pool that miscounts on demand."""

    def plant(self, fault: str, held: list[int]) -> None:
        match fault:
            case "leak":
                self.take(1)
            case "lost":
                self._free.pop()
            case "twice":
                self._free.append(self._free[0])
            case "name":
                self._names[held[0]] = NAMES[7]
            case "foreign":
                self._holders[held[0]] += 1
            case "both":
                self._free.append(next(iter(self._kept)))


@pytest.mark.parametrize("fault", ["leak", "lost", "twice", "name", "foreign", "both"])
def test_the_check_finds_each_planted_fault(fault: str) -> None:
    pool = FaultyPool(6, 16)
    held = published(pool, NAMES[:2])
    pool.release(published(pool, NAMES[2:4]))
    pool.check([held])
    pool.plant(fault, held)
    with pytest.raises(CacheIntegrityError):
        pool.check([held])


def test_releasing_too_often_is_noticed() -> None:
    pool = BlockPool(2, 16)
    blocks = pool.take(1) or []
    pool.release(blocks)
    with pytest.raises(CacheIntegrityError):
        pool.release(blocks)
