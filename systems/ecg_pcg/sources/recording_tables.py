"""The tables of a cache of recordings, written with little held in memory.

Onsets go to their file as the recordings come; of a recording stay its metadata and the spans of its beats.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datasets.problems import skipped_rows
from datasets.sources import Problem, infer_persons
from systems.ecg_pcg.sources.beats_of_recording import MODALITIES, PreparedRecording

SHARED = ("set", "session", "person", "label", "diagnosis", "site", "quality")
"""What a beat has of its recording."""
TOGETHER = 512
"""Recordings whose beats are written together."""


class RecordingTables:
    """``recordings.csv``, ``samples.csv``, ``events.csv`` and ``skipped.csv`` of a cache in the making.

    Parameters
    ----------
    folder : pathlib.Path
        Where the cache is being written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recordings: list[dict[str, object]] = []
        self.spans: list[NDArray[np.float64]] = []
        self._file = (folder / "events.csv").open("w", encoding="utf-8", newline="")
        self._events = csv.writer(self._file, lineterminator="\n")
        self._events.writerow(("recording", "time", "state"))

    def add(self, item: PreparedRecording, offsets: dict[str, int]) -> None:
        """Take the metadata of a recording, and where its waveforms begin."""
        self.recordings.append(item.row | offsets)
        self.spans.append(item.spans)
        if item.states is not None:
            name = item.row["recording"]
            onsets = zip(item.states.time.tolist(), item.states.state.tolist(), strict=True)
            self._events.writerows((name, time, state) for time, state in onsets)

    def close(self) -> None:
        """Close the table of onsets; the others are written when all recordings are there."""
        self._file.close()

    def write(self, skipped: list[Problem]) -> dict[str, int]:
        """Write the other tables and return the counts of all."""
        recordings = pd.DataFrame(self.recordings)
        recordings["person"] = infer_persons(recordings)
        write_rows(self.folder / "recordings.csv", recordings)
        beats = 0
        for first in range(0, len(recordings), TOGETHER):
            rows = slice(first, first + TOGETHER)
            samples = sample_rows(recordings.iloc[rows], self.spans[rows], beats)
            write_rows(self.folder / "samples.csv", samples, more=first > 0)
            beats += len(samples)
        write_rows(self.folder / "skipped.csv", skipped_rows(skipped))
        return {
            "recordings": len(recordings),
            "beats": beats,
            "sessions": int(recordings["session"].nunique()),
            "persons": int(recordings["person"].nunique()),
            "abnormal_recordings": int(recordings["label"].sum()),
            "skipped": len(skipped),
        }


def write_rows(path: Path, table: pd.DataFrame, more: bool = False) -> None:
    """Write a table, or ``more`` rows of one."""
    table.to_csv(path, mode="a" if more else "w", header=not more, index=False, lineterminator="\n")


def sample_rows(recordings: pd.DataFrame, spans: list[NDArray[np.float64]], first: int) -> pd.DataFrame:
    """Return the rows of ``samples.csv`` of some recordings, a row a beat, counted from ``first``."""
    own = recordings.iloc[np.repeat(np.arange(len(recordings)), [len(beats) for beats in spans])]
    start, end = np.concatenate(spans).T
    rows = {
        "sample": first + np.arange(len(own)),
        "recording": own["recording"],
        "start": start.round(5),
        "end": end.round(5),
        "heart_rate": (60 / (end - start)).round(3),
        **{name: own[name] for name in SHARED},
        **{f"has_{kind}": (own[f"{kind}_length"] > 0).astype(int) for kind in MODALITIES},
    }
    return pd.DataFrame(rows)
