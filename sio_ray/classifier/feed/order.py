"""The order in which the images of a source are used: pass after pass without end, each image once per pass."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sio_ray.imageset.schema import ROWS_PER_GROUP
from sio_ray.seeding import numpy_generator

Indices = npt.NDArray[np.int64]


#: Gives, for the number and the size of a pass, its images 0 to size - 1 in the order of their use.
Order = Callable[[int, int], Indices]


def permutation(name: str, seed: int) -> Order:
    """A permutation of all images for every pass: for sets in memory, where any image is as near as another."""
    return lambda number, size: numpy_generator("epoch", seed, name, number).permutation(size)


class Pass(NamedTuple):
    """One pass over a source.

    Attributes:
        number: from 0.
        start: position in the endless stream at which it begins.
        size: images in use, those of the lowest ids.
    """

    number: int
    start: int
    size: int


@dataclass(frozen=True)
class Window:
    """One window of one pass.

    Attributes:
        number: of the pass.
        size: images of the pass.
        index: of the window in it.
        position: in the endless stream, of its first image.
    """

    number: int
    size: int
    index: int
    position: int


class WindowedOrder:
    """A pass goes through the row groups in random order, and shuffles the images of one window of them after another.

    So a set is read in pieces, each once per pass, and only a window is held in memory. The pieces are row groups
    (256 images) and not whole shards: in a set that is sorted by class a shard may hold one class alone, and a window
    of two shards would give batches of two classes. A window of 8,192 images holds 32 pieces from all over the set;
    a set of a thousand classes should be written in random order all the same, as `prepare` does.

    Args:
        shard_sizes: images of each shard.
        window: images that are shuffled together, rounded up to whole row groups.
        name: of the source.
        seed: of the orders.
    """

    def __init__(self, shard_sizes: Sequence[int], window: int, name: str, seed: int) -> None:
        self._name, self._seed = name, seed
        self._groups_per_window = -(-window // ROWS_PER_GROUP)
        self.shard_starts = np.cumsum([0, *shard_sizes])
        shards = itertools.pairwise(self.shard_starts)
        self._group_starts = np.concatenate([np.arange(start, stop, ROWS_PER_GROUP) for start, stop in shards])
        self._group_stops = np.append(self._group_starts[1:], self.shard_starts[-1])

    def windows(self, number: int, size: int) -> list[list[tuple[int, int]]]:
        """The row groups of each window of a pass over `size` images, as ranges [start, stop) of the set."""
        groups = numpy_generator("groups", self._seed, self._name, number).permutation(
            int(np.searchsorted(self._group_starts, size))
        )
        ranges = list(
            zip(self._group_starts[groups].tolist(), np.minimum(self._group_stops[groups], size).tolist(), strict=True)
        )
        each = self._groups_per_window
        return [ranges[first : first + each] for first in range(0, len(ranges), each)]

    def shuffled(self, number: int, index: int, groups: Sequence[tuple[int, int]]) -> Indices:
        """The images of window `index` of a pass, in the order of their use."""
        rows = np.concatenate([np.arange(start, stop) for start, stop in groups])
        return numpy_generator("window", self._seed, self._name, number, index).permutation(rows)

    def between(self, passes: Passes, start: int, stop: int) -> list[Window]:
        """The windows that hold positions [start, stop) of a stream."""
        found, position = list[Window](), passes.at(start).start
        while position < stop:
            number, _, size = passes.at(position)
            for index, groups in enumerate(self.windows(number, size)):
                following = position + sum(last - first for first, last in groups)
                if following > start and position < stop:
                    found.append(Window(number, size, index, position))
                position = following
        return found

    def of_pass(self, number: int, size: int) -> Indices:
        """A whole pass, an `Order`; a stream takes one window after the other."""
        windows = self.windows(number, size)
        return np.concatenate([self.shuffled(number, i, groups) for i, groups in enumerate(windows)])


class Passes:
    """One pass over a source after the other, without end.

    Args:
        order: shuffles each.
        size_at: how many images a pass that begins at a position of the stream goes over, at least 1.
    """

    def __init__(self, order: Order, size_at: Callable[[int], int]) -> None:
        self._order, self._size_at = order, size_at
        self._starts, self._sizes = [0], [size_at(0)]
        self._number, self._rows = -1, np.empty(0, dtype=np.int64)

    def at(self, position: int) -> Pass:
        """The pass that a position of the stream falls in."""
        while (end := self._starts[-1] + self._sizes[-1]) <= position:
            self._starts.append(end)
            self._sizes.append(self._size_at(end))
        number = bisect.bisect_right(self._starts, position) - 1
        return Pass(number, self._starts[number], self._sizes[number])

    def take(self, start: int, count: int) -> Indices:
        """The images at positions [start, start + count)."""
        parts = [np.empty(0, dtype=np.int64)]
        while count > 0:
            number, begin, size = self.at(start)
            if number != self._number:
                self._number, self._rows = number, self._order(number, size)
            parts.append(self._rows[start - begin : start - begin + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)
