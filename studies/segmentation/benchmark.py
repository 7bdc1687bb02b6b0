"""Fit the segmentation of heart sounds, and measure it on databases and sessions it was not fitted on.

    python load_data.py --raw-dir PATH/challenge-2016 --sets a b c d e f
    python -m studies.segmentation                                  # the cache prepared last
    python -m studies.segmentation --cache data/cache/<name> --raw-dir PATH/challenge-2016

The truth is the hand-corrected onsets of PhysioNet/CinC 2016. Each database is segmented with parameters of
the others, from its heart sound alone. Within training-a, which has an ECG, five folds keep sessions apart;
parameters are fitted on four and evaluated on the fifth, with the heart sound alone and with R-peaks of the
ECG. An onset is found if one of the same state lies within the tolerance, one to one. Onsets in the first and
last tenth of a second and in noisy spans do not count. ``--raw-dir`` adds the automatic onsets that the
Challenge published for training-a (Springer's algorithm), from which the hand-corrected ones were made: this
measures agreement only.

Prints the table, writes it to results/benchmarks/segmentation.csv, and the parameters, fitted on all
databases, to systems/ecg_pcg/segmentation/weights.json. About seven minutes on one core.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from common.command_line import read_settings
from common.files import write_table
from datasets.beats import NOISE_MARKS, HeartStates, read_heart_states
from datasets.cache import find_cache
from studies.segmentation.fit import Truth, even, fit, read_recordings
from systems.ecg_pcg.segmentation.features import FRAME_RATE, WEIGHTS, write_parameters
from systems.ecg_pcg.segmentation.segment import Segmentation, segment_envelopes

TOLERANCES = (0.06, 0.1)
"""Greatest distance of an onset from the annotated one, seconds."""
SOUNDS = ("S1", "S2")
MARGIN = 0.1
"""Time at the ends of a recording and around noisy spans in which onsets do not count, seconds."""
ALONE, WITH_ECG, SPRINGER = "heart sound", "heart sound and ECG", "published (Springer)"
LEFT_OUT = "heart sound, database left out"
AUTOMATIC = Path("annotations/springer_alg/training-a-Aut")
ANNOTATION_RATE = 2000.0


@dataclass(frozen=True)
class SegmentationSettings:
    """Settings of the benchmark."""

    cache: Path | None = None
    """Cache of training-a, or of all sets; default: the one prepared last."""
    cache_dir: Path = Path("data/cache")
    """Folder in which caches lie."""
    raw_dir: Path | None = None
    """Folder of the Challenge's data; adds the published automatic onsets."""
    folds: int = 5
    """Folds over sessions."""
    most: int = 120
    """Recordings of each database that parameters are fitted on, at most."""
    frames: int = 150
    """Frames of each recording that the logistic regression is fitted on."""
    seed: int = 0
    """Seed of folds and frames."""
    output: Path = Path("results/benchmarks/segmentation.csv")
    """Table to write."""
    weights: Path = WEIGHTS
    """Parameters to write."""


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Measure, tabulate, fit on everything; return the table."""
    settings = read_settings(SegmentationSettings, arguments, __doc__)
    recordings = read_recordings(find_cache(settings.cache, settings.cache_dir))
    with_ecg = [recording for recording in recordings if len(recording.peaks)]
    counts = pd.concat(
        [
            out_of_fold(with_ecg, settings),
            *published(with_ecg, settings.raw_dir),
            *out_of_database(recordings, settings),
        ],
        ignore_index=True,
    )
    table = tabulate(counts)
    write_table(settings.output, table)
    fitted = even(recordings, settings.most, settings.seed)
    databases = sorted({recording.database for recording in fitted})
    metadata = {"fitted_on": f"{len(fitted)} hand-corrected recordings of {', '.join(databases)}"}
    write_parameters(settings.weights, fit(fitted, settings.frames, settings.seed), metadata)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"\n{quality_table(counts).to_string(index=False, float_format='{:.3f}'.format)}")
    print(f"\n{len(recordings)} recordings. Written to {settings.output} and {settings.weights}.")
    return table


def out_of_database(recordings: Sequence[Truth], settings: SegmentationSettings) -> Iterator[pd.DataFrame]:
    """Yield the counts of every recording under parameters fitted on other databases, if there are others."""
    rows = [
        {"input": f"{LEFT_OUT}: {recording.database}", "quality": found.quality}
        | count_onsets(recording, found.states)
        for recording, found in segment_left_out(recordings, settings)
    ]
    if rows:
        yield pd.DataFrame(rows)


def segment_left_out(
    recordings: Sequence[Truth], settings: SegmentationSettings
) -> Iterator[tuple[Truth, Segmentation]]:
    """Yield each recording with its heart states, by its sound alone and parameters of other databases.

    Nothing where there is one database only.
    """
    databases = sorted({recording.database for recording in recordings})
    for name in databases if len(databases) > 1 else []:
        others = [recording for recording in recordings if recording.database != name]
        parameters = fit(even(others, settings.most, settings.seed), settings.frames, settings.seed)
        own = [recording for recording in recordings if recording.database == name]
        for recording in tqdm(own, desc=f"Segmenting {name}", unit="recording"):
            yield recording, segment_envelopes(recording.sound, np.zeros(0), parameters)


def out_of_fold(recordings: Sequence[Truth], settings: SegmentationSettings) -> pd.DataFrame:
    """Return the counts of every recording under parameters fitted on other sessions."""
    rows = []
    for recording, source, found, seconds in segment_out_of_fold(recordings, settings):
        metadata = {"input": source, "quality": found.quality, "r_peak_agreement": found.r_peak_agreement}
        rows.append(metadata | {"seconds": seconds} | count_onsets(recording, found.states))
    return pd.DataFrame(rows)


def segment_out_of_fold(
    recordings: Sequence[Truth], settings: SegmentationSettings
) -> Iterator[tuple[Truth, str, Segmentation, float]]:
    """Yield each recording, without and with its ECG, as parameters fitted on other sessions segment it.

    Yields
    ------
    tuple of (Truth, str, Segmentation, float)
        The recording, `ALONE` or `WITH_ECG`, its heart states, and the seconds that took.
    """
    label = [recording.label for recording in recordings]
    session = [recording.session for recording in recordings]
    splitter = StratifiedGroupKFold(settings.folds, shuffle=True, random_state=settings.seed)
    with tqdm(total=len(recordings), desc="Segmenting", unit="recording") as bar:
        for train, test in splitter.split(label, label, session):
            parameters = fit([recordings[k] for k in train], settings.frames, settings.seed)
            for recording in (recordings[k] for k in test):
                for source, peaks in ((ALONE, np.zeros(0)), (WITH_ECG, recording.peaks)):
                    started = time.perf_counter()
                    found = segment_envelopes(recording.sound, peaks, parameters)
                    yield recording, source, found, time.perf_counter() - started
                bar.update()


def published(recordings: Sequence[Truth], raw_dir: Path | None) -> Iterator[pd.DataFrame]:
    """Yield the counts of the automatic onsets that the Challenge published, if there are any."""
    if raw_dir is None:
        return
    rows = []
    for recording in recordings:
        path = raw_dir / AUTOMATIC / f"{recording.name}_StateAns0.mat"
        states = read_heart_states(path, ANNOTATION_RATE)
        rows.append({"input": SPRINGER} | count_onsets(recording, states))
    yield pd.DataFrame(rows)


def count_onsets(recording: Truth, found: HeartStates) -> dict[str, object]:
    """Return how many onsets of a recording there are, were found, and match, at each tolerance."""
    counts: dict[str, object] = {"recording": recording.name, "label": recording.label}
    duration = len(recording.sound.levels) / FRAME_RATE
    for sound, tolerance in itertools.product(SOUNDS, TOLERANCES):
        true, given = (states.time[states.state == sound] for states in (recording.states, found))
        pairs = match(true, given, tolerance)
        true_counts, given_counts = (counted(times, recording.states, duration) for times in (true, given))
        kept = pairs[true_counts[pairs[:, 0]]]
        counts |= {
            f"{sound}@{tolerance:g} true": int(true_counts.sum()),
            f"{sound}@{tolerance:g} given": int(given_counts.sum()),
            f"{sound}@{tolerance:g} hit": len(kept),
            f"{sound}@{tolerance:g} right": int(given_counts[pairs[:, 1]].sum()),
            f"{sound}@{tolerance:g} error": float(np.abs(true[kept[:, 0]] - given[kept[:, 1]]).sum()),
        }
    return counts


def match(true: NDArray[np.float64], given: NDArray[np.float64], tolerance: float) -> NDArray[np.int64]:
    """Pair rising times one to one, each pair within a tolerance, as many as possible: shape (pairs, 2)."""
    pairs, first, second = [], 0, 0
    while first < len(true) and second < len(given):
        distance = given[second] - true[first]
        if abs(distance) <= tolerance + 1e-9:
            pairs.append((first, second))
        first, second = first + (distance >= -tolerance - 1e-9), second + (distance <= tolerance + 1e-9)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def counted(times: NDArray[np.float64], states: HeartStates, duration: float) -> NDArray[np.bool_]:
    """Return which onsets count: not at the ends of the recording, nor in or beside noise."""
    counts = (times > MARGIN) & (times < duration - MARGIN)
    starts, stops = (states.time[states.state == mark] for mark in NOISE_MARKS)
    for start, stop in zip(starts, stops, strict=False):
        counts &= (times < start - MARGIN) | (times > stop + MARGIN)
    return counts


def tabulate(counts: pd.DataFrame) -> pd.DataFrame:
    """Return sensitivity, positive predictivity, F1 and error over all onsets of groups of recordings."""
    groups = {"all": [0, 1], "normal": [0], "abnormal": [1]}
    rows = []
    for source, (group, labels), sounds, tolerance in itertools.product(
        counts["input"].unique(), groups.items(), (*((sound,) for sound in SOUNDS), SOUNDS), TOLERANCES
    ):
        chosen = counts[(counts["input"] == source) & counts["label"].isin(labels)]
        if len(chosen):
            metadata = {"input": source, "recordings_of": group, "recordings": len(chosen)}
            metadata |= {"onset": " and ".join(sounds), "tolerance_ms": round(1000 * tolerance)}
            rows.append(metadata | _scores(chosen, sounds, tolerance))
    return pd.DataFrame(rows)


def _scores(counts: pd.DataFrame, sounds: Sequence[str], tolerance: float) -> dict[str, float]:
    """Return the scores of pooled counts."""
    total = {
        kind: float(sum(counts[f"{sound}@{tolerance:g} {kind}"].sum() for sound in sounds))
        for kind in ("true", "given", "hit", "right", "error")
    }
    sensitivity, predictivity = total["hit"] / total["true"], total["right"] / max(total["given"], 1)
    return {
        "onsets": total["true"],
        "sensitivity": sensitivity,
        "positive_predictivity": predictivity,
        "f1": 2 * sensitivity * predictivity / max(sensitivity + predictivity, 1e-12),
        "mean_absolute_error_ms": 1000 * total["error"] / max(total["hit"], 1),
    }


def quality_table(counts: pd.DataFrame) -> pd.DataFrame:
    """Return the F1 within 100 ms in fifths of recordings by the quality of their segmentation."""
    rows = []
    for source, given in counts[counts["input"] != SPRINGER].groupby("input"):
        ordered = given.sort_values("quality")
        for rows_of_part in np.array_split(np.arange(len(ordered)), 5):
            part = ordered.iloc[rows_of_part]
            single = [_scores(part.iloc[[k]], SOUNDS, TOLERANCES[1])["f1"] for k in range(len(part))]
            metadata = {"input": source, "quality_from": part["quality"].min(), "to": part["quality"].max()}
            metadata |= {"f1": _scores(part, SOUNDS, TOLERANCES[1])["f1"], "lowest_f1": min(single)}
            rows.append(metadata | {"below_0.9": sum(value < 0.9 for value in single)})
    return pd.DataFrame(rows)
