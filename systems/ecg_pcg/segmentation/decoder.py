"""The most likely path through the ring of heart states when each lasts as its distribution says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_IMPOSSIBLE = -1e30


def decode(
    evidence: NDArray[np.float64], beat: NDArray[np.float64], durations: NDArray[np.float64]
) -> tuple[NDArray[np.float64], list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Find the most likely path through the ring of states, for several sets of durations at once.

    The recording begins and ends anywhere in the ring: the first state has begun before (how long it still
    lasts follows from the mean time spent in each), and the last one goes on.

    Parameters
    ----------
    evidence : numpy.ndarray, shape (frames, 4)
        Logarithm of how likely the sound of each frame is in each state.
    beat : numpy.ndarray, shape (frames,)
        What is added for an S1 that begins in a frame.
    durations : numpy.ndarray, shape (sets, 4, longest)
        Probability of each state to last 1, 2, ... frames; its sum is 1.

    Returns
    -------
    scores : numpy.ndarray, shape (sets,)
        Log-likelihoods of the best paths.
    paths : list of (onset, state)
        For each set, the frames in which the states of the path begin, the first 0, and the states.
    """
    frames, (sets, ring, longest) = len(evidence), durations.shape
    at_least = durations[:, :, ::-1].cumsum(axis=2)  # from the longest down, as the window below runs
    mean = (durations * np.arange(1, longest + 1)).sum(axis=(1, 2))
    whole, cut = _log(durations[:, :, ::-1]), _log(at_least)
    begun = cut[:, :, ::-1] - np.log(mean)[:, None, None]
    total = np.concatenate([np.zeros((1, ring)), evidence.cumsum(axis=0)])
    entry = -total[:-1]
    entry[:, 0] += beat
    started = np.full((sets, ring, longest + frames), _IMPOSSIBLE)
    lasted = np.zeros((frames + 1, sets, ring), dtype=np.int64)
    each_set, each_state = np.arange(sets)[:, None], np.arange(ring)
    before = each_state - 1
    score = np.zeros((sets, ring))
    for frame in range(1, frames + 1):
        ended = started[:, :, frame : frame + longest] + (whole if frame < frames else cut)
        best = ended.argmax(axis=2)
        score, length = ended[each_set, each_state, best], longest - best
        if frame <= longest:
            earlier = begun[:, :, frame - 1] > score
            score, length = np.where(earlier, begun[:, :, frame - 1], score), np.where(earlier, frame, length)
        score = score + total[frame]
        lasted[frame] = length
        if frame < frames:
            started[:, :, longest + frame] = score[:, before] + entry[frame]
    return score.max(axis=1), [_trace(lasted[:, k], int(score[k].argmax())) for k in range(sets)]


def _log(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithm, of nothing a very low number."""
    return np.log(np.maximum(probability, 1e-300))


def _trace(lasted: NDArray[np.int64], state: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the path that ends in a state, read from how long each state lasted when it ended."""
    frame, onsets, states = len(lasted) - 1, [], []
    while frame > 0:
        frame -= int(lasted[frame, state])
        onsets.append(frame)
        states.append(state)
        state = (state - 1) % lasted.shape[1]
    return np.array(onsets[::-1]), np.array(states[::-1])
