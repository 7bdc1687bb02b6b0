"""Filling a cache: whole or not at all, named by what it is made from, whatever its arrays are."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray
from tqdm import tqdm

from common.files import NpyWriter, content_digest, replacing_folder, write_json
from datasets.cache import FORMAT, Cache
from datasets.parallel import in_parallel
from datasets.record_checks import is_inside
from datasets.recordings import signal_files
from datasets.sources import DataError, Problem, SourceIndex

LIBRARIES = ("numpy", "scipy", "wfdb", "pandas")

Prepared = TypeVar("Prepared")


@dataclass(frozen=True)
class Kept:
    """What is in the arrays: a row a recording, and what was said while preparing."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


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
        checksums = dict(
            zip(unique, pool.map(lambda name: content_digest(index.root / name), unique), strict=True)
        )
    metadata = {
        "format": FORMAT,
        "settings": dataclasses.asdict(settings),
        "files": checksums,
        **index.choices,
    }
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest(), checksums


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


def append_view(writer: NpyWriter, view: NDArray[Any] | None) -> None:
    """Append a view of one patient, or zeros where there is none."""
    if view is None:
        writer.append_zeros(1)
    else:
        writer.append(view[None])
