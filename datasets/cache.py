"""The cache: what preparation leaves, and all that training and evaluation read.

``data/cache/<source>-<8 hex digits>/`` holds arrays (``.npy``, memory-mapped), tables (``.csv``) and
``manifest.json``. The digits name the preparation settings and the content of the source, so the same of
both is never computed again, and others get another folder. It appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from common.files import NpyWriter, replacing_folder, write_json, write_text
from config import PreparationSettings
from datasets.parallel import in_parallel
from datasets.preparation import MODALITIES, PreparedRecording, prepare_recording
from datasets.record_checks import is_inside
from datasets.recording_tables import RecordingTables
from datasets.recordings import ChannelFinder, channels_by_name, signal_files
from datasets.sources import DataError, Problem, SourceIndex

FORMAT = 1
LATEST = "latest-{task}.txt"
COUNTED = {"recordings": "recordings", "samples": "beats", "skipped": "skipped"}
"""Tables whose number of rows stands in the manifest, and its name there."""
TEXT = ("recording", "set", "session", "person", "diagnosis", "site", "state", "reason", "remedy")
"""Columns that are text, whatever they look like."""
LIBRARIES = ("numpy", "scipy", "wfdb", "pandas")

Prepared = TypeVar("Prepared")


class Cache:
    """A prepared cache, opened for reading.

    Parameters
    ----------
    path : pathlib.Path
        Folder of the cache.

    Raises
    ------
    DataError
        If the folder is no cache, or one of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(
                f"{path} is no cache: it has no manifest.json. Make one with load_data.py."
            ) from None
        except (ValueError, OSError) as error:  # neither JSON nor text is a ValueError
            raise DataError(
                f"{path}/manifest.json cannot be read ({error}). "
                "Delete the folder and run load_data.py again."
            ) from None
        found = manifest.get("format") if isinstance(manifest, dict) else None
        if found != FORMAT:
            raise DataError(
                f"{path} has cache format {found}, and {FORMAT} is needed. "
                "Delete the folder and run load_data.py again."
            )
        self.manifest: dict[str, Any] = manifest

    @property
    def identity(self) -> str:
        """Digest of the settings and the source that the cache was made from."""
        return self.manifest["identity"]

    @property
    def simulated(self) -> bool:
        """Whether the recordings are of virtual patients."""
        return bool(self.manifest["simulated"])

    def describe(self) -> dict[str, Any]:
        """Return what a run remembers of the cache, in plain types.

        That is its identity, source and settings, whether it is simulated, the versions it was prepared with,
        and checksums: of each table as it is now, and one of the checksums of all raw files.
        """
        names = ("identity", "source", "simulated", "settings", "versions")
        choices = self.manifest.get("choices", {})  # which caches of before do not have
        sources = json.dumps(self.manifest["source_files"], sort_keys=True)
        tables = {path.name: _sha256(path) for path in sorted(self.path.glob("*.csv"))}
        return {name: self.manifest[name] for name in names} | {
            "choices": choices,
            "source_files": hashlib.sha256(sources.encode()).hexdigest(),
            "tables": tables,
        }

    def table(self, name: str, missing: Sequence[str] = ()) -> pd.DataFrame:
        """Return a table, such as "recordings"; `TEXT` columns as text, cells in ``missing`` as NaN."""
        kinds = dict.fromkeys(TEXT, str)
        path = self._file(f"{name}.csv")
        try:
            table = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=list(missing))
        except (ValueError, OSError) as error:  # those of pandas are ValueErrors
            raise self._damaged(path, error) from error
        rows = self.manifest.get("counts", {}).get(COUNTED.get(name), len(table))
        if len(table) != rows:
            raise self._damaged(path, f"it has {len(table)} rows of {rows}")
        return table

    def array(self, name: str) -> NDArray[Any]:
        """Return an array, memory-mapped."""
        path = self._file(f"{name}.npy")
        try:
            return np.lib.format.open_memmap(path, mode="r")  # unlike np.load: no archives, no objects
        except (ValueError, EOFError, OSError) as error:  # cut short, or not an array
            raise self._damaged(path, error) from error

    def _damaged(self, path: Path, reason: object) -> DataError:
        """Return the error for a file that is not what preparation wrote."""
        return DataError(
            f"{path} is damaged ({reason}). Delete the folder {self.path} and run load_data.py again."
        )

    def _file(self, name: str) -> Path:
        """Return the path of a file, which the cache of another task may lack."""
        if not (self.path / name).is_file():
            raise DataError(
                f"The cache {self.path} has no {name}: it was prepared for another task, or is damaged. "
                "Prepare one for this task with load_data.py, or name another with --cache."
            )
        return self.path / name

    def beats(self, modality: str) -> NDArray[np.float32]:
        """Return the beats of "ecg" or "pcg", shape (beats, points), memory-mapped; zeros where absent."""
        return self.array(f"beats_{modality}")

    def waveforms(self, modality: str) -> NDArray[np.float32]:
        """Return all continuous signals of "ecg" or "pcg", one after the other, memory-mapped.

        Recording ``r`` begins at ``recordings["<modality>_offset"]`` and has ``<modality>_length`` samples.
        """
        return self.array(f"waveforms_{modality}")


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


def is_there(path: Path, index: SourceIndex, strict: bool) -> bool:
    """Tell whether a cache is there already; under ``strict`` refuse one, or an index, that leaves out."""
    if path.is_dir():
        skipped = Cache(path).table("skipped")
        if strict and len(skipped):
            raise stopped(Problem(*skipped.iloc[0]))
        return True
    for problem in index.problems:
        if strict and problem.left_out:
            raise stopped(problem)
    return False


def fill_cache(
    path: Path,
    index: SourceIndex,
    prepare: Callable[[dict[str, Any]], Prepared],
    write: Callable[[Path, Iterable[Prepared]], dict[str, Any]],
    *,
    jobs: int,
    progress: bool,
) -> None:
    """Prepare every recording of an index, in parallel, and write the cache, whole or not at all.

    Parameters
    ----------
    path : pathlib.Path
        Folder of the cache.
    index : SourceIndex
    prepare : callable
        Makes of one row of the index what the cache keeps of it.
    write : callable
        Writes arrays and tables into a folder as the recordings come, and returns the manifest.
    jobs : int
        Processes; -1: one a core.
    progress : bool
        Show a bar.
    """
    rows = index.recordings.to_dict("records")
    prepared = in_parallel(prepare, rows, jobs)
    with replacing_folder(path) as folder:
        bar = tqdm(prepared, total=len(rows), desc="Preparing", unit="recording", disable=not progress)
        write_json(folder / "manifest.json", write(folder, bar))


def stopped(problem: Problem) -> DataError:
    """Return the error with which ``strict`` stops at something left out."""
    return DataError(f"{problem.where}: {problem.what} {problem.remedy} (stopped by --strict)")


def identify(index: SourceIndex, settings: PreparationSettings) -> tuple[str, dict[str, str]]:
    """Return the digest of settings and source content, and the checksum of each source file."""
    rows = index.recordings
    onsets = [name for name in rows["annotation"] if name and is_inside(index.root / name, index.root)]
    names = [*index.files, *onsets, *record_files(index.root, rows["header"])]
    return name_content(index, names, settings)


def record_files(root: Path, headers: Iterable[str]) -> list[str]:
    """Return the files of WFDB records, relative to the root: headers, and the signal files they name."""
    names = []
    for header in headers:
        if not is_inside(root / header, root):  # left out when it is prepared
            continue
        names.append(header)
        with contextlib.suppress(DataError):  # a faulty header is left out when it is prepared
            files = signal_files(root / header, root)
            names += [file.relative_to(root).as_posix() for file in files]
    return names


def name_content(index: SourceIndex, names: Iterable[str], settings: Any) -> tuple[str, dict[str, str]]:
    """Return the digest of settings (a dataclass), choices and files, and the checksum of each file.

    The files are named relative to the root of the index, so where they lie does not count.
    """
    unique = sorted(dict.fromkeys(names))
    with ThreadPoolExecutor() as pool:
        checksums = dict(zip(unique, pool.map(lambda name: _sha256(index.root / name), unique), strict=True))
    facts = {"format": FORMAT, "settings": dataclasses.asdict(settings), "files": checksums, **index.choices}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest(), checksums


def _sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or "absent", or "unreadable"."""
    if not path.is_file():
        return "absent"
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # whoever prepares the recording will say so
        return "unreadable"


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


def manifest_of(
    index: SourceIndex,
    settings: Any,
    identity: str,
    checksums: dict[str, str],
    simulated: bool,
    libraries: Sequence[str] = LIBRARIES,
) -> dict[str, Any]:
    """Return what a cache was made from, and with what: its manifest, without the counts."""
    return {
        "format": FORMAT,
        "identity": identity,
        "source": index.name,
        "simulated": simulated,
        "session_unit": index.session_unit,
        "warnings": [
            f"{problem.where}: {problem.what}" for problem in index.problems if not problem.left_out
        ],
        "settings": dataclasses.asdict(settings),
        "choices": index.choices,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in libraries},
        "source_files": checksums,
    }


def remember_latest(path: Path, task: str = "ecg-pcg") -> None:
    """Note which cache was prepared last for a task; training takes it unless told otherwise."""
    write_text(path.parent / LATEST.format(task=task), path.name + "\n")


def find_cache(cache: Path | None, cache_dir: Path, identity: str = "", task: str = "ecg-pcg") -> Cache:
    """Open a cache: the one named, the one of an identity, or the one prepared last for a task.

    Raises
    ------
    DataError
        If there is none.
    """
    if cache is not None:
        return Cache(cache)
    if identity:
        for manifest in sorted(cache_dir.glob("[!.]*/manifest.json")):
            with contextlib.suppress(DataError):  # another cache may be damaged, or of another format
                found = Cache(manifest.parent)
                if found.identity == identity:
                    return found
        raise DataError(
            f"No cache in {cache_dir} is the one this run was trained from (identity {identity[:8]}). "
            "Prepare the same data with load_data.py, or name a cache with --cache."
        )
    command = "python load_data.py" + (f" {task}" if task != "ecg-pcg" else "")
    latest = cache_dir / LATEST.format(task=task)
    if not latest.is_file():
        raise DataError(
            f"No prepared data in {cache_dir}. Run load_data.py first: {command} --raw-dir PATH, "
            f"or {command} --simulate to try it on virtual patients."
        )
    return Cache(cache_dir / latest.read_text(encoding="utf-8").strip())
