"""Data of task ``ecg-pcg``: from raw recordings, downloaded or simulated, to a cache of beats.

``beats_ecg.npy``, ``beats_pcg.npy``          float32 (beats, points); zeros where there is no such signal
``waveforms_ecg.npy``, ``waveforms_pcg.npy``  float32, the conditioned signals one after the other
``recordings.csv``, ``samples.csv``           a row a recording; a row a beat, in the order of the arrays
``events.csv``                                onsets of heart states, annotated or automatic
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.command_line import counted
from common.files import FLOATS, content_digest
from datasets.cache import ArraySpec, Cache, CacheWriter, Kept, count_rows
from datasets.recordings import RECORDINGS, ChannelFinder, channels_by_name
from datasets.sources import DataError, Problem, SourceIndex, format_problems
from datasets.wfdb_files import find_files, is_inside, record_files
from systems.base.prepare import Preparation, count_reasons
from systems.ecg_pcg.settings import LoadDataSettings, PreparationSettings
from systems.ecg_pcg.sources.beats_of_recording import (
    BY_SEGMENTATION,
    MODALITIES,
    PreparedRecording,
    prepare_recording,
)

_DOWNLOADED = Path("data/raw/challenge-2016")
_SIMULATED = Path("data/raw/simulated")
_SHORTEST_BEAT = 25
"""Fewest points of a beat that a network takes."""
_SECONDS_PER_RECORDING = 0.009
"""Measured on training-a (35 s a recording), one core."""
_SECONDS_PER_SEGMENTATION = 0.16
"""The same, for heart states that are found automatically."""
_OF_RECORDING = ("database", "session", "person", "label", "diagnosis", "site", "quality")
"""Columns that a beat has of its recording."""
_PIECE = 512
"""Recordings whose beats are written at a time."""


def prepare(settings: LoadDataSettings, task: str = "ecg-pcg") -> Path:
    """Prepare what the settings name; return the folder of the cache."""
    return _RecordingPreparation(settings, task).prepare()


class _RecordingPreparation(Preparation[LoadDataSettings, SourceIndex]):
    """Prepares recordings of ECG and heart sound."""

    unit = "recordings"
    sought = "training-* folders, a labels.csv or the <patient>.txt of CirCor"
    layouts = (
        ("cohort", "labels.csv"),
        ("physionet2016", "training-[a-f]/"),
        ("circor", "training_data/[0-9]*.txt"),
        ("circor", "[0-9]*.txt"),
    )
    variable = "PHYSIONET2016_DIR"

    def plan(self) -> str:
        settings, made = self.settings, self.settings.simulation
        if settings.simulate and settings.download:
            raise DataError("--simulate and --download exclude each other: choose one.")
        if settings.dry_run and (settings.simulate or settings.download):
            what, folder = f"fetch what is absent of {', '.join(self._sets())}", _DOWNLOADED
            if settings.simulate:
                count = made.sessions * made.persons * made.recordings
                what, folder = f"simulate {count} recordings of {made.duration:g} s", _SIMULATED
            return (
                f"Would {what} into {settings.raw_dir or folder}, and prepare that into "
                f"{settings.cache_dir}. Nothing was written."
            )
        if settings.preparation.beat_points < _SHORTEST_BEAT:
            raise DataError(
                f"--beat-points {settings.preparation.beat_points} is too few for a network: "
                f"use {_SHORTEST_BEAT} or more (2000 as published)."
            )
        _check_samples(settings.preparation)
        return ""

    def _sets(self) -> list[str]:
        return [f"training-{letter}" for letter in self.settings.sets]

    def simulate(self) -> Path:
        from systems.ecg_pcg.sources.simulated import write_cohort  # takes seconds to import

        folder = self.settings.raw_dir or _SIMULATED
        return write_cohort(folder, self.settings.simulation, jobs=self.settings.jobs, progress=True)

    def raw_dir(self) -> Path:
        if not self.settings.download:
            return super().raw_dir()
        from systems.ecg_pcg.sources.download import download_physionet2016

        folder = self.settings.raw_dir or _DOWNLOADED
        problems = download_physionet2016(folder, self.settings.sets)
        if problems:
            print(format_problems(problems))
        return folder

    def usual_folders(self) -> list[Path]:
        return [*self.from_environment(), _DOWNLOADED]

    def find(self, folder: Path) -> Path | None:
        return super().find(folder.parent if folder.name.startswith("training-") else folder)

    def hint_of_others(self, folder: Path) -> str:
        """Return nothing for sounds beside ``labels.xlsx``, which alone marks patients of ecg-multimodal."""
        if (folder / "labels.xlsx").is_file() and find_files(folder, RECORDINGS):
            return ""
        return super().hint_of_others(folder)

    def advice(self) -> str:
        folder = self.settings.raw_dir
        if folder and folder.is_dir() and find_files(folder, RECORDINGS):
            return (
                "It holds recordings: write labels.csv beside them (text, no Excel file), with the columns "
                "recording, label (normal or abnormal) and person; docs/data.md has an example. predict.py "
                "needs no labels."
            )
        return (
            "Download them (training-a: 110 MB) with: python load_data.py --download. "
            "Try everything on simulated patients with: python load_data.py --simulate. "
            "Or name the folder with --raw-dir PATH; docs/data.md shows the layouts."
        )

    def index(self, root: Path, layout: str) -> SourceIndex:
        if layout == "cohort":
            from systems.ecg_pcg.sources.cohort import index_cohort

            return index_cohort(root, **self._channels())
        if layout == "circor":
            from systems.ecg_pcg.sources.circor import index_circor

            return index_circor(root, self.settings.label)
        from systems.ecg_pcg.sources.physionet2016 import index_physionet2016

        return index_physionet2016(root, self.settings.sets, self.settings.preparation)

    def _channels(self) -> dict[str, str]:
        return {"ecg_channel": self.settings.ecg_channel, "pcg_channel": self.settings.pcg_channel}

    def chosen(self, index: SourceIndex) -> dict[str, Any]:
        sets = self.settings.sets
        named = {"sets": sets} if index.name == "physionet2016" and sets != LoadDataSettings.sets else {}
        return named | super().chosen(index)

    def writer(self, index: SourceIndex) -> RecordingCache:
        find = channels_by_name
        if index.name == "circor":
            from systems.ecg_pcg.sources.circor import find_sound

            return RecordingCache(index, self.settings.preparation, find_sound)
        if index.name == "cohort":
            from systems.ecg_pcg.sources.cohort import find_channels

            find = functools.partial(find_channels, **self._channels())
        return RecordingCache(index, self.settings.preparation, find)

    def cost(self, writer: CacheWriter[SourceIndex, Any], path: Path) -> str:
        index, jobs = writer.index, self.settings.jobs
        files = [index.root / name for name in writer.identified[1]]
        raw = sum(file.stat().st_size for file in files if file.is_file())
        cores = os.cpu_count() or 1 if jobs < 0 else max(jobs, 1)
        work = _SECONDS_PER_RECORDING * len(index.recordings)
        work += _SECONDS_PER_SEGMENTATION * _to_segment(index, self.settings.preparation)
        seconds = 2 + work / cores
        return (
            f"read {raw / 1e6:.0f} MB and write about {raw * 4 / 1e6:.0f} MB to {path}, "
            f"in about {seconds:.0f} s on {counted(cores, 'core')}"
        )

    def describe(self, cache: Cache, index: SourceIndex) -> list[str]:
        counts = cache.manifest["counts"]
        normal = counts["recordings"] - counts["abnormal_recordings"]
        reasons, others = count_reasons(cache)
        named = index.recordings["person"] != ""
        about = "" if named.all() else "about "
        persons = f"{about}{counted(counts['persons'], 'person')}"
        if not named.any() and index.recordings["position"].isna().all():
            persons = "persons not named"
        kept = (
            f"{counted(counts['recordings'], 'recording')} kept ({normal} normal, "
            f"{counts['abnormal_recordings']} abnormal), {counts['beats']} "
            f"{_sample_words(self.settings.preparation)}, {counted(counts['sessions'], 'session')}, "
            f"{persons}; {counts['skipped']} left out."
        )
        more = [f"        and {counted(others, 'other reason')}: see skipped.csv"] if others else []
        label = _only_label(cache)
        one = [f"All are {label}: a model can be tested on them, not trained."] if label else []
        return [kept, *reasons, *more, *_describe_segmentation(cache), *one]

    def next_command(self, cache: Cache) -> str:
        if _only_label(cache):
            return f"evaluate.py --checkpoint checkpoints/<run> --cache {shlex.quote(str(cache.path))}"
        return super().next_command(cache)


PREPARATION = _RecordingPreparation


def _only_label(cache: Cache) -> str:
    """Return the label that all recordings have; empty where there are both."""
    counts = cache.manifest["counts"]
    return {0: "normal", counts["recordings"]: "abnormal"}.get(counts["abnormal_recordings"], "")


def _check_samples(settings: PreparationSettings) -> None:
    """Refuse samples that do not exist."""
    if settings.beats_per_sample < 1:
        raise DataError(f"--beats-per-sample must be 1 or more, and is {settings.beats_per_sample}.")
    if settings.cut == "windows" and settings.beats_per_sample > 1:
        raise DataError("--cut windows and --beats-per-sample exclude each other: choose one.")
    if not (settings.window_seconds > 0 and settings.window_step > 0):
        raise DataError(
            f"--window-seconds and --window-step must be above 0, and are {settings.window_seconds:g} and "
            f"{settings.window_step:g}."
        )


def _sample_words(settings: PreparationSettings) -> str:
    """Return what the samples of a cache are."""
    if settings.cut == "windows":
        return f"windows of {settings.window_seconds:g} s"
    together = settings.beats_per_sample
    return "beats" if together == 1 else f"samples of {together} beats"


def _to_segment(index: SourceIndex, settings: PreparationSettings) -> int:
    """Return in how many recordings heart states are found automatically, if they have a heart sound."""
    if settings.onsets == "ecg":
        return 0
    annotated = (index.recordings["annotation"] != "") & (settings.onsets != "automatic")
    return int((~annotated).sum())


def _describe_segmentation(cache: Cache) -> list[str]:
    """Return how many recordings have automatic heart states, and how certain they are."""
    recordings = cache.table("recordings", missing=[""])
    segmented = recordings[recordings["beat_source"] == BY_SEGMENTATION]
    if segmented.empty:
        return []
    certainty = segmented["states_quality"].quantile([0.1, 0.5])
    return [
        f"{counted(len(segmented), 'recording')} have heart states found automatically: certainty "
        f"{certainty[0.5]:.2f} (median), {certainty[0.1]:.2f} (one in ten has less)."
    ]


# Cache ----------------------------------------------------------------------------------------------


class RecordingCache(CacheWriter[SourceIndex, PreparedRecording]):
    """Writes the cache of recordings cut into beats.

    Parameters
    ----------
    index : SourceIndex
    settings : PreparationSettings
    find_channels : callable
        Tells which channel of a record is the ECG, and which the heart sound.
    """

    unit = "recording"
    event_columns = ("recording", "time", "state")

    def __init__(
        self,
        index: SourceIndex,
        settings: PreparationSettings,
        find_channels: ChannelFinder = channels_by_name,
    ) -> None:
        if _to_segment(index, settings):  # heart states change with the segmentation that finds them
            from systems.ecg_pcg.segmentation.features import WEIGHTS  # takes a second to import

            fitted = {"segmentation": content_digest(WEIGHTS)[:8]}
            index = dataclasses.replace(index, choices=index.choices | fitted)
        super().__init__(index, settings)
        self.find_channels = find_channels

    def _files(self) -> list[str]:
        rows, root = self.index.recordings, self.index.root
        onsets = [name for name in rows["annotation"] if name and is_inside(root / name, root)]
        return [*self.index.files, *onsets, *record_files(root, rows["header"])]

    def function(self) -> Callable[[dict[str, Any]], PreparedRecording | Problem]:
        """Return `prepare_recording` with all but the row."""
        return functools.partial(
            prepare_recording, self.index.root, settings=self.settings, find_channels=self.find_channels
        )

    def _arrays(self) -> dict[str, ArraySpec]:
        beats = {f"beats_{name}": ((self.settings.beat_points,), FLOATS) for name in MODALITIES}
        return beats | {f"waveforms_{name}": ((), FLOATS) for name in MODALITIES}

    def _metadata(self, item: PreparedRecording) -> dict[str, Any]:
        return item.row | {"spans": item.spans}

    def _parts(self, item: PreparedRecording) -> dict[str, NDArray[Any] | int]:
        beats = {f"beats_{name}": item.beats.get(name, len(item.spans)) for name in MODALITIES}
        return beats | {f"waveforms_{name}": item.waveforms.get(name, 0) for name in MODALITIES}

    def _events(self, item: PreparedRecording) -> Iterable[tuple[Any, ...]]:
        if item.states is None:
            return []
        onsets = zip(item.states.time.tolist(), item.states.state.tolist(), strict=True)
        return ((item.row["recording"], time, state) for time, state in onsets)

    def _tables(self, kept: Kept) -> tuple[dict[str, Iterable[pd.DataFrame]], dict[str, int]]:
        spans = [row.pop("spans") for row in kept.rows]
        recordings = pd.DataFrame(kept.rows)
        for name in MODALITIES:
            lengths = recordings[f"{name}_length"]
            recordings[f"{name}_offset"] = lengths.cumsum() - lengths
        recordings["person"] = infer_persons(recordings)
        counts = count_rows(recordings)
        counts = {
            "recordings": counts.pop("recordings"),
            "beats": sum(map(len, spans)),
            **counts,
            "abnormal_recordings": int(recordings["label"].sum()),
            "skipped": len(kept.skipped),
        }
        together = None if self.settings.cut == "windows" else self.settings.beats_per_sample
        return {"recordings": [recordings], "samples": _sample_tables(recordings, spans, together)}, counts


def _sample_tables(
    recordings: pd.DataFrame, spans: list[NDArray[np.float64]], together: int | None
) -> Iterator[pd.DataFrame]:
    """Yield pieces of ``samples.csv``, a row a sample of so many beats (None: a window)."""
    beats = 0
    for first in range(0, len(recordings), _PIECE):
        rows = slice(first, first + _PIECE)
        own = recordings.iloc[rows]
        own = own.iloc[np.repeat(np.arange(len(own)), [len(found) for found in spans[rows]])]
        start, end = np.concatenate(spans[rows]).T
        table = {
            "sample": beats + np.arange(len(own)),
            "recording": own["recording"],
            "start": start.round(5),
            "end": end.round(5),
            **({} if together is None else {"heart_rate": (60 * together / (end - start)).round(3)}),
            **{name: own[name] for name in _OF_RECORDING},
            **{f"has_{name}": (own[f"{name}_length"] > 0).astype(int) for name in MODALITIES},
        }
        yield pd.DataFrame(table)
        beats += len(own)


def infer_persons(recordings: pd.DataFrame) -> pd.Series:
    """Return the person of each recording, inferring those that the source does not name.

    Within a session, in order of position, a repeated auscultation site starts a new person. Over the
    388 usable recordings of training-a this finds 122 persons, where 121 are published for all 409. It is
    a guess, good for reporting and never for splitting.

    Parameters
    ----------
    recordings : pandas.DataFrame
        Columns ``recording``, ``session``, ``position``, ``site`` and ``person``.

    Returns
    -------
    pandas.Series of str
        Aligned with the table.
    """
    persons = recordings["person"].copy()
    unnamed = recordings[(persons == "") & recordings["position"].notna() & (recordings["site"] != "")]
    for session, rows in unnamed.sort_values(["session", "position"]).groupby("session"):
        sites: set[str] = set()
        number = 1
        for row, site in rows["site"].items():
            if site in sites:
                sites = set()
                number += 1
            sites.add(site)
            persons.loc[row] = f"{session}P{number}"
    return persons.where(persons != "", recordings["session"])
