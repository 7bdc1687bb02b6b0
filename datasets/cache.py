"""The cache: what preparation leaves, and all that training and evaluation read.

``data/cache/<source>-<8 hex digits>/`` holds arrays (``.npy``, memory-mapped), tables (``.csv``) and
``manifest.json``. The digits name the preparation settings and the content of the source, so the same of
both is never computed again, and others get another folder. Simulated sources begin with ``simulated``, and
settings that are not the usual ones stand before the digits, as in ``physionet2016-springer-1a2b3c4d``. It
appears whole or not at all. What is in it stands in ``systems/<system>/prepare.py``.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import hashlib
import json
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from common.command_line import counted, path_option
from common.files import NpyWriter, content_digest, replacing_folder, write_json, write_text
from config import SourceSettings
from datasets.sources import DataError, MissingModality, Problem, SourceIndex, first_reasons

FORMAT = 1
LATEST = "latest-{task}.txt"
_COUNTED = {"recordings": "recordings", "samples": "beats", "skipped": "skipped"}
"""Tables whose number of rows stands in the manifest, and its name there."""
TEXT = ("recording", "database", "session", "person", "diagnosis", "site", "state", "reason", "remedy")
"""Columns that are text, whatever they look like."""
_RENAMED = {"set": "database"}
"""Columns of caches that were prepared before, and their names now."""
_TITLES = {
    "physionet2016": "PhysioNet/CinC Challenge 2016",
    "cohort": "your own cohort",
    "circor": "CirCor DigiScope",
    "ptbxl": "PTB-XL",
    "ptbxl-ecg": "PTB-XL (ECGs alone)",
    "patients": "your own patients",
    "patients-ecg": "your own patients (ECGs alone)",
    "pairs": "your own pairs of ECG and cine",
    "acdc": "ACDC",
}
"""Sources in words; others have their name."""
SIMULATED = "SIMULATED"
"""Stands wherever data are named that no patient gave."""


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
        """Whether the recordings are of simulated patients."""
        return bool(self.manifest["simulated"])

    @property
    def title(self) -> str:
        """What the data are, in words: how many recordings of which source."""
        number = self.manifest.get("counts", {}).get("recordings")
        what = "recordings" if number is None else counted(int(number), "recording")
        return f"{what} of {source_title(self.manifest['source'], self.simulated)}"

    def describe(self) -> dict[str, Any]:
        """Return what a run remembers of the cache, in plain types.

        That is its identity, source and settings, whether it is simulated, the versions it was prepared with,
        checksums (of each table as it is now, and one of the checksums of all raw files), and for beats how
        many recordings have theirs found in each way.
        """
        names = ("identity", "source", "simulated", "settings", "versions")
        choices = self.manifest.get("choices", {})  # which caches of before do not have
        sources = json.dumps(self.manifest["source_files"], sort_keys=True)
        tables = {path.name: content_digest(path) for path in sorted(self.path.glob("*.csv"))}
        described = {name: self.manifest[name] for name in names} | {
            "choices": choices,
            "source_files": hashlib.sha256(sources.encode()).hexdigest(),
            "tables": tables,
        }
        recordings = self.table("recordings")
        if "beat_source" in recordings:
            described["beat_source"] = recordings["beat_source"].value_counts().to_dict()
        return described

    def table(self, name: str, missing: Sequence[str] = ()) -> pd.DataFrame:
        """Return a table, such as "recordings"; `TEXT` columns as text, cells in ``missing`` as NaN."""
        kinds = dict.fromkeys(TEXT, str)
        path = self._file(f"{name}.csv")
        try:
            table = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=list(missing))
        except (ValueError, OSError) as error:  # those of pandas are ValueErrors
            raise self._damaged(path, error) from error
        rows = self.manifest.get("counts", {}).get(_COUNTED.get(name), len(table))
        if len(table) != rows:
            raise self._damaged(path, f"it has {len(table)} rows of {rows}")
        return table.rename(columns=_RENAMED)

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


def remember_latest(path: Path, task: str = "ecg-pcg") -> None:
    """Note which cache was prepared last for a task; training takes it unless another is named."""
    write_text(path.parent / LATEST.format(task=task), path.name + "\n")


def source_title(source: str, simulated: bool) -> str:
    """Return a source in words; simulated patients are never named like those whose layout they have."""
    title = _TITLES.get(source, source)
    if not simulated:
        return title
    known = source in _TITLES and not title.startswith("your")
    return f"{SIMULATED} patients" + f" in the layout of {source}" * known


def list_caches(cache_dir: Path) -> str:
    """Return a line for each cache of a folder, those prepared last marked with their tasks."""
    latest = {
        path: path.read_text(encoding="utf-8").strip() for path in cache_dir.glob(LATEST.format(task="*"))
    }
    begins = len(LATEST.format(task="")) - len(".txt")
    lines = []
    for cache in _caches(cache_dir):
        tasks = [path.stem[begins:] for path, name in latest.items() if name == cache.path.name]
        newest = f"; prepared last for {', '.join(sorted(tasks))}" if tasks else ""
        lines.append(f"  {cache.path}: {cache.title}, of {cache.manifest.get('created', '')[:10]}{newest}")
    none = f"No caches in {cache_dir}: load_data.py prepares them."
    return "\n".join([f"Caches in {cache_dir} (--cache PATH chooses):", *lines]) if lines else none


def _caches(cache_dir: Path, ending: str = "") -> Iterator[Cache]:
    """Yield the caches of a folder that can be read, or those whose name has an ending."""
    for manifest in sorted(cache_dir.glob(f"[!.]*{ending}/manifest.json")):
        with contextlib.suppress(DataError):  # another cache may be damaged, or of another format
            yield Cache(manifest.parent)


def describe_choice(taken: Cache, cache_dir: Path) -> str:
    """Return how many other caches of the same kind there are, and how one is chosen; empty if none."""
    kind = taken.manifest["settings"].keys()
    others = [
        cache
        for cache in _caches(cache_dir)
        if cache.manifest["settings"].keys() == kind and cache.identity != taken.identity
    ]
    if not others:
        return ""
    verb = "lies" if len(others) == 1 else "lie"
    return (
        f"{taken.path.name} was prepared last and is taken; {counted(len(others), 'other cache')} {verb} in "
        f"{cache_dir}: --cache PATH chooses, --list lists them."
    )


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
        for found in _caches(cache_dir):
            if found.identity == identity:
                return found
        raise DataError(
            f"No cache in {cache_dir} is the one this run was trained from (identity {identity[:8]}). "
            "Prepare the same data with load_data.py, or name a cache with --cache."
        )
    command = "python load_data.py" + (f" {task}" if task != "ecg-pcg" else "")
    latest = cache_dir / LATEST.format(task=task)
    if not latest.is_file():
        place = path_option("cache-dir", cache_dir, SourceSettings.cache_dir)
        raise DataError(
            f"No prepared data in {cache_dir}. Run load_data.py first: {command} --raw-dir PATH{place}, "
            f"or {command} --simulate{place} to try it on simulated patients."
        )
    return Cache(cache_dir / latest.read_text(encoding="utf-8").strip())


# Writing --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """What one recording gives to the cache; a system adds its arrays.

    Attributes
    ----------
    row : dict
        Metadata, for ``recordings.csv``.
    problems : list of Problem
        Parts that the recording is used without, and warnings.
    """

    row: dict[str, Any]
    problems: list[Problem] = field(default_factory=list, kw_only=True)


Index = TypeVar("Index", bound=SourceIndex)
Item = TypeVar("Item", bound=Prepared)
Result = TypeVar("Result")

ArraySpec = tuple[tuple[int, ...], str]
"""Shape of one row, and numpy's name of the type."""


@dataclass
class Kept:
    """What is in the arrays: a row a recording, and what was found while preparing."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


class CacheWriter(Generic[Index, Item]):
    """Writes the cache of an index, whole or not at all; a system says what is in it.

    Parameters
    ----------
    index : SourceIndex
    settings : dataclass
        What is done to each recording; part of the name of the cache.
    """

    libraries: ClassVar[tuple[str, ...]] = ("numpy", "scipy", "wfdb", "pandas")
    """Libraries whose versions the manifest names."""
    unit: ClassVar[str] = "patient"
    optional_remedy: ClassVar[str | None] = None
    """Remedy of what may be absent, so that ``strict`` accepts it."""
    event_columns: ClassVar[tuple[str, ...]] = ()
    """Columns of ``events.csv``; none: there is no such table."""

    def __init__(self, index: Index, settings: Any) -> None:
        self.index, self.settings = index, settings
        self.chosen: dict[str, Any] = {}
        """What was chosen beyond these settings, and is not as usual; stands in the name."""
        self.found = False
        """Whether the cache was there already when it should have been built."""

    # What a system says

    def _check(self) -> None:
        """Refuse settings with which no recording can be prepared."""

    def _files(self) -> Iterable[str]:
        """Return the files that the cache is made from, relative to the root of the index."""
        raise NotImplementedError

    def _leave_out(self, checksums: Mapping[str, str]) -> Index:
        """Return the index without recordings that must not be used."""
        return self.index

    def function(self) -> Callable[[dict[str, Any]], Item | Problem]:
        """Return what prepares one row of the index; it can be pickled."""
        raise NotImplementedError

    def _arrays(self) -> dict[str, ArraySpec]:
        """Return the arrays of the cache by name."""
        raise NotImplementedError

    def _metadata(self, item: Item) -> dict[str, Any] | Problem:
        """Return the row of a recording for the tables, or why it is left out after all."""
        return item.row

    def _parts(self, item: Item) -> dict[str, NDArray[Any] | int]:
        """Return the rows that a recording adds to each array, or how many rows of zeros."""
        raise NotImplementedError

    def _events(self, item: Item) -> Iterable[tuple[Any, ...]]:
        """Return the rows that a recording adds to ``events.csv``."""
        return ()

    def _tables(self, kept: Kept) -> tuple[dict[str, Iterable[pd.DataFrame]], dict[str, int]]:
        """Return the pieces of each table but ``skipped.csv``, and the counts of the manifest."""
        raise NotImplementedError

    def _contents(self) -> dict[str, Any]:
        """Return what the manifest says of arrays and tables."""
        return {}

    # What all systems share

    @functools.cached_property
    def identified(self) -> tuple[str, dict[str, str]]:
        """Digest of settings, choices and files, and the checksum of each file.

        The files are named relative to the root of the index, so where they lie does not count.
        """
        unique = sorted(dict.fromkeys(self._files()))
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda name: content_digest(self.index.root / name), unique)
            checksums = dict(zip(unique, found, strict=True))
        settings = dataclasses.asdict(self.settings)
        content = {"format": FORMAT, "settings": settings, "files": checksums, **self.index.choices}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(), checksums

    def path(self, cache_dir: Path) -> Path:
        """Return the folder that the cache gets, or has under an older name."""
        digest = self.identified[0]
        there = (cache.path for cache in _caches(cache_dir, f"-{digest[:8]}") if cache.identity == digest)
        return next(there, cache_dir / "-".join([*self._name_parts(), digest[:8]]))

    def _name_parts(self) -> list[str]:
        """Return what the name of the folder says: simulated, source, and what is not as usual."""
        name, simulated = self.index.name, "simulated" if self.index.simulated else ""
        usual = {item.name: item.default for item in dataclasses.fields(self.settings)}
        changed = {
            key: value for key, value in dataclasses.asdict(self.settings).items() if value != usual[key]
        }
        parts = [name if name.startswith(simulated) else f"{simulated}-{name}"]
        parts += [_setting_words(key, value) for key, value in (self.chosen | changed).items()]
        return parts if len(parts) <= _NAMED + 1 else [*parts[: _NAMED + 1], "and-more"]

    def build(self, cache_dir: Path, *, jobs: int = -1, strict: bool = False, progress: bool = True) -> Path:
        """Prepare every recording of the index, in parallel, and write the cache; return its folder.

        Nothing is done when a cache of the same settings and source is there already.

        Parameters
        ----------
        cache_dir : pathlib.Path
        jobs : int
            Processes; -1: one a core.
        strict : bool
            Stop at the first recording that is left out.
        progress : bool
            Show a bar.

        Raises
        ------
        DataError
            If the settings do not fit, nothing usable is left, or under ``strict``.
        """
        self._check()
        path = self.path(cache_dir)
        self.index = self._leave_out(self.identified[1])
        self.found = self._is_there(path, strict)
        if self.found:
            return path
        rows = self.index.recordings.to_dict("records")
        prepared = in_parallel(self.function(), rows, jobs)
        with replacing_folder(path) as folder:
            bar = tqdm(prepared, total=len(rows), desc="Preparing", unit="recording", disable=not progress)
            write_json(folder / "manifest.json", self.write(folder, bar, strict))
        return path

    def _is_there(self, path: Path, strict: bool) -> bool:
        """Tell whether a cache is there; under ``strict`` refuse one, or an index, that leaves out."""
        if path.is_dir():
            skipped = Cache(path).table("skipped")
            faults = skipped[skipped["remedy"] != self.optional_remedy]
            if strict and len(faults):
                raise _stopped(Problem(*faults.iloc[0]))
            return True
        for problem in self.index.problems:
            if strict and problem.left_out:
                raise _stopped(problem)
        return False

    def write(self, folder: Path, prepared: Iterable[Item | Problem], strict: bool = False) -> dict[str, Any]:
        """Write arrays as the recordings come, then the tables; return the manifest."""
        kept = self._write_arrays(folder, prepared, strict)
        tables, counts = self._tables(kept)
        skipped = [(problem.where, problem.what, problem.remedy) for problem in kept.skipped]
        tables["skipped"] = [pd.DataFrame(skipped, columns=["recording", "reason", "remedy"])]
        for name, pieces in tables.items():
            for number, piece in enumerate(pieces):
                mode: Any = "a" if number else "w"
                piece.to_csv(
                    folder / f"{name}.csv", mode=mode, header=not number, index=False, lineterminator="\n"
                )
        return self._manifest(kept) | self._contents() | {"counts": counts}

    def _write_arrays(self, folder: Path, prepared: Iterable[Item | Problem], strict: bool) -> Kept:
        """Write the arrays, and the table of events, as the recordings come."""
        listed = [item for item in self.index.problems if item.left_out or isinstance(item, MissingModality)]
        kept = Kept(skipped=listed)
        with contextlib.ExitStack() as files:
            writers = {
                name: NpyWriter(folder / f"{name}.npy", *spec) for name, spec in self._arrays().items()
            }
            for writer in writers.values():
                files.callback(writer.close)
            if self.event_columns:
                file = files.enter_context((folder / "events.csv").open("w", encoding="utf-8", newline=""))
                events = csv.writer(file, lineterminator="\n")
                events.writerow(self.event_columns)
            for item in prepared:
                if not self._keep(item, kept, strict) or isinstance(item, Problem):
                    continue
                for name, part in self._parts(item).items():
                    if isinstance(part, int):
                        writers[name].append_zeros(part)
                    else:
                        writers[name].append(part)
                if self.event_columns:
                    events.writerows(self._events(item))
        used = {row["recording"] for row in kept.rows}
        kept.skipped = [
            item for item in kept.skipped if not isinstance(item, MissingModality) or item.where in used
        ]
        if not kept.rows:
            reasons = first_reasons(kept.skipped)
            raise DataError(f"No {self.unit} of {self.index.root} can be used. {reasons}")
        return kept

    def _keep(self, item: Item | Problem, kept: Kept, strict: bool) -> bool:
        """Take the metadata and problems of a recording; tell whether it is kept."""
        found = item if isinstance(item, Problem) else self._metadata(item)
        problems = [item] if isinstance(item, Problem) else item.problems
        problems = [found] if isinstance(found, Problem) else problems
        faults = [problem for problem in problems if problem.left_out]
        if strict and faults:
            raise _stopped(faults[0])
        kept.skipped += faults
        if isinstance(found, Problem):
            return False
        kept.rows.append(found)
        kept.warnings += [problem for problem in problems if not problem.left_out]
        return True

    def _manifest(self, kept: Kept) -> dict[str, Any]:
        """Return what the cache was made from, and with what: its manifest, without the counts."""
        index, (identity, checksums) = self.index, self.identified
        warnings = [*(problem for problem in index.problems if not problem.left_out), *kept.warnings]
        return {
            "format": FORMAT,
            "identity": identity,
            "source": index.name,
            "simulated": index.simulated,
            "session_unit": index.session_unit,
            "warnings": [f"{problem.where}: {problem.what}" for problem in warnings],
            "settings": dataclasses.asdict(self.settings),
            "choices": index.choices,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in self.libraries},
            "source_files": checksums,
        }


_NAMED, _LONGEST = 3, 24
"""Settings that the name of a cache names, at most, and characters of each."""


def _setting_words(name: str, value: Any) -> str:
    """Return a setting as part of a file name: what was chosen, with its name where that does not say it."""
    label = name.replace("_", "-")
    if isinstance(value, bool):
        return label if value else f"no-{label}"
    values = value if isinstance(value, tuple | list) else (value,)
    shown = "-".join(f"{each:g}" if isinstance(each, float) else str(each) for each in values)
    shown = re.sub(r"[^A-Za-z0-9.]+", "-", shown).strip("-.")[:_LONGEST]
    return shown if isinstance(value, str) and name != "text" else f"{label}-{shown}"


def count_rows(recordings: pd.DataFrame) -> dict[str, int]:
    """Return how many recordings, sessions and persons there are, as the manifest names them."""
    counts = {f"{unit}s": int(recordings[unit].nunique()) for unit in ("session", "person")}
    return {"recordings": len(recordings)} | counts


def _stopped(problem: Problem) -> DataError:
    """Return the error with which ``strict`` stops at something left out."""
    return DataError(f"{problem.where}: {problem.what} {problem.remedy} (stopped by --strict)")


_BATCH = 4
"""Recordings a process is handed at a time: few, so that all processes end together."""
AHEAD = 128
"""Recordings that are under way, or wait to be written, at most; joblib itself would let any number wait."""
_AHEAD_A_PROCESS = 8
"""The same for each process, where these are more."""


def in_parallel(
    prepare: Callable[[dict[str, Any]], Result], rows: Sequence[dict[str, Any]], jobs: int
) -> Iterator[Result]:
    """Yield what ``prepare`` makes of each row, in their order.

    Parameters
    ----------
    prepare : callable
        Can be pickled; makes of one row of an index what the cache keeps of it.
    rows : sequence of dict
    jobs : int
        Processes; -1: one a core, or all that a cluster has.

    Raises
    ------
    DataError
        If a process was killed.
    """
    ahead = max(AHEAD, _AHEAD_A_PROCESS * joblib.effective_n_jobs(jobs))
    try:
        with joblib.Parallel(n_jobs=jobs, return_as="generator", batch_size=_BATCH) as parallel:
            for first in range(0, len(rows), ahead):
                yield from parallel(joblib.delayed(prepare)(row) for row in rows[first : first + ahead])
    except BrokenExecutor as error:
        raise DataError(
            "A process that prepared recordings was killed, as happens where memory runs out: try fewer of "
            f"them with --jobs (there were {joblib.effective_n_jobs(jobs)})."
        ) from error
