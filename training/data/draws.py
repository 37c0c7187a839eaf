"""What is drawn when: the frames of an epoch, and the random numbers of each of them.

Everything follows from the run's seed, the number of the epoch and the place of a frame in it. So a run comes
out the same with any number of loader processes, and one that is resumed at the end of an epoch draws what it
would have drawn without the interruption.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data.distributed import DistributedSampler

Ints = npt.NDArray[np.int64]


class Draws(NamedTuple):
    """A batch that is to be made.

    Attributes:
        epoch: its number from 0.
        places: int64 (B,), which place of the epoch each frame has, over all processes of a run.
        items: int64 (B,), the frames, as indices into the data set.
    """

    epoch: int
    places: Ints
    items: Ints


def generators(seed: int, epoch: int, places: Ints) -> Iterator[np.random.Generator]:
    """A generator for each place of an epoch, to be used before the next one is asked for.

    Philox (Salmon et al. 2011) computes its numbers from a key and a counter: seed and epoch are the key, the
    place is a word of the counter. To set them takes 2 us; a generator of its own for each would take 20.
    """
    bits = np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64))
    rng, state = np.random.Generator(bits), bits.state
    for place in places:
        state["state"]["counter"] = np.array([0, place, 0, 0], np.uint64)
        state["buffer_pos"], state["has_uint32"] = 4, 0  # nothing is left over of the place before
        bits.state = state
        yield rng


class BatchSampler(DistributedSampler[Draws]):
    """Whole batches as ``Draws``, each process of a run its own ones; as many in each.

    Derived from DistributedSampler, so that Lightning leaves it in its place and tells it the epoch.

    Args:
        frames: in the data set.
        batch_size: frames of a batch of one process.
        shuffle: in random order; a last batch that would not be full is left out, unless it is the only one.
            Otherwise in the order of the data set, to the last frame.
        weights: (frames,) how often each is drawn, with replacement; None for each once.
        epoch_frames: drawn in an epoch over all processes; 0 for as many as there are.
        seed: of the run.
        rank, processes: of this process, and of the run.
    """

    def __init__(
        self,
        frames: int,
        batch_size: int,
        *,
        shuffle: bool,
        weights: npt.NDArray[np.float64] | None = None,
        epoch_frames: int = 0,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        super().__init__(range(frames), processes, rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.frames, self.batch_size, self.weights = frames, batch_size, weights
        self.drawn = epoch_frames or frames
        share = self.drawn / processes
        # Processes wait for each other in every step, so each takes as many; frames are repeated for it.
        self.share = math.ceil(share) if not shuffle or share < batch_size else int(share)
        self.batches = self.share // batch_size if shuffle else math.ceil(self.share / batch_size)
        self.batches = max(1, self.batches)

    def __len__(self) -> int:
        return self.batches

    def order(self) -> Ints:
        """The frames of the epoch that ``set_epoch`` named, for all processes."""
        if not self.shuffle:
            return np.arange(self.drawn) % self.frames
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.weights is not None or self.drawn > self.frames:
            weights = np.ones(self.frames) if self.weights is None else self.weights
            return rng.choice(self.frames, self.drawn, p=weights / weights.sum())
        return rng.permutation(self.frames)[: self.drawn]

    def __iter__(self) -> Iterator[Draws]:
        order = self.order()
        places = np.arange(self.share) * self.num_replicas + self.rank
        for batch in range(self.batches):
            at = places[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield Draws(self.epoch, at, order[at % len(order)])
