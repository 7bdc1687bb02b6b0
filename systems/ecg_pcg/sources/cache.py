"""The cache of recordings cut into beats: `datasets.cache`, with these arrays and tables.

``beats_ecg.npy``, ``beats_pcg.npy``          float32 (beats, points); zeros where there is no such signal
``waveforms_ecg.npy``, ``waveforms_pcg.npy``  float32, the conditioned signals one after the other
``recordings.csv``, ``samples.csv``, ``skipped.csv``   `systems.ecg_pcg.sources.recording_tables`
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.files import NpyWriter
from datasets.cache_filling import (
    fill_cache,
    is_there,
    manifest_of,
    name_content,
    record_files,
    stopped,
)
from datasets.record_checks import is_inside
from datasets.recordings import ChannelFinder, channels_by_name
from datasets.sources import DataError, Problem, SourceIndex
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources.beats_of_recording import MODALITIES, PreparedRecording, prepare_recording
from systems.ecg_pcg.sources.recording_tables import RecordingTables


def build_cache(
    index: SourceIndex,
    settings: PreparationSettings,
    cache_dir: Path,
    *,
    jobs: int = -1,
    strict: bool = False,
    find_channels: ChannelFinder = channels_by_name,
    simulated: bool = False,
    progress: bool = True,
) -> Path:
    """Prepare every recording of an index and write the cache; return its folder.

    Nothing is done when a cache of the same settings and source is there already.

    Raises
    ------
    DataError
        If nothing usable is left, or under ``strict`` at the first recording left out.
    """
    identity, checksums = identify(index, settings)
    path = cache_dir / f"{index.name}-{identity[:8]}"
    if is_there(path, index, strict):
        return path
    prepare = functools.partial(prepare_recording, index.root, settings=settings, find_channels=find_channels)

    def write(folder: Path, prepared: Iterable[PreparedRecording | Problem]) -> dict[str, Any]:
        counts = _write(folder, prepared, index, settings, strict)
        return manifest_of(index, settings, identity, checksums, simulated) | {"counts": counts}

    fill_cache(path, index, prepare, write, jobs=jobs, progress=progress)
    return path


def identify(index: SourceIndex, settings: PreparationSettings) -> tuple[str, dict[str, str]]:
    """Return the digest of settings and source content, and the checksum of each source file."""
    rows = index.recordings
    onsets = [name for name in rows["annotation"] if name and is_inside(index.root / name, index.root)]
    names = [*index.files, *onsets, *record_files(index.root, rows["header"])]
    return name_content(index, names, settings)


def _write(
    folder: Path,
    prepared: Iterable[PreparedRecording | Problem],
    index: SourceIndex,
    settings: PreparationSettings,
    strict: bool,
) -> dict[str, int]:
    """Write arrays as the recordings come, then the tables; return the counts."""
    beats = {kind: NpyWriter(folder / f"beats_{kind}.npy", (settings.beat_points,)) for kind in MODALITIES}
    waves = {kind: NpyWriter(folder / f"waveforms_{kind}.npy") for kind in MODALITIES}
    tables = RecordingTables(folder)
    skipped = [problem for problem in index.problems if problem.left_out]
    with contextlib.ExitStack() as files:
        for writer in [*beats.values(), *waves.values()]:
            files.callback(writer.close)
        files.callback(tables.close)
        for item in prepared:
            if isinstance(item, Problem):
                if strict:
                    raise stopped(item)
                skipped.append(item)
                continue
            tables.add(item, {f"{kind}_offset": waves[kind].rows for kind in MODALITIES})
            for kind in MODALITIES:
                if kind in item.beats:
                    beats[kind].append(item.beats[kind])
                    waves[kind].append(item.waveforms[kind])
                else:
                    beats[kind].append_zeros(len(item.spans))
    if not tables.recordings:
        reasons = "; ".join(f"{problem.where}: {problem.what}" for problem in skipped[:3])
        raise DataError(f"No recording of {index.root} can be used. The first reasons: {reasons}")
    return tables.write(skipped)
