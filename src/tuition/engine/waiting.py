"""The requests that wait to be computed, and which is next."""

from bisect import insort
from collections import OrderedDict, deque

from tuition.engine.sequence import Sequence


class WaitingLine:
    """Waiting sequences of one priority: preempted ones first, then round robin over the salts."""

    def __init__(self) -> None:
        self._preempted: list[Sequence] = []
        self._by_salt: OrderedDict[str, deque[Sequence]] = OrderedDict()
        self.length = 0

    def add(self, sequence: Sequence) -> None:
        self._by_salt.setdefault(sequence.request.cache_salt, deque()).append(sequence)
        self.length += 1

    def add_preempted(self, sequence: Sequence) -> None:
        insort(self._preempted, sequence, key=lambda s: s.order)
        self.length += 1

    def first(self) -> Sequence | None:
        if self._preempted:
            return self._preempted[0]
        return next(iter(self._by_salt.values()))[0] if self._by_salt else None

    def pop(self) -> Sequence:
        self.length -= 1
        if self._preempted:
            return self._preempted.pop(0)
        salt, line = next(iter(self._by_salt.items()))
        sequence = line.popleft()
        self._by_salt.move_to_end(salt)
        if not line:
            del self._by_salt[salt]
        return sequence

    def remove(self, sequence: Sequence) -> None:
        if sequence in self._preempted:
            self._preempted.remove(sequence)
        else:
            line = self._by_salt[sequence.request.cache_salt]
            line.remove(sequence)
            if not line:
                del self._by_salt[sequence.request.cache_salt]
        self.length -= 1
