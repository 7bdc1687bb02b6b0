"""The cache: what preparation leaves, and all that training and evaluation read.

``data/cache/<source>-<8 hex digits>/`` holds arrays (``.npy``, memory-mapped), tables (``.csv``) and
``manifest.json``. The digits name the preparation settings and the content of the source, so the same of
both is never computed again, and others get another folder. It appears whole or not at all
(`datasets.cache_filling`). What lies in it: `systems.ecg_pcg.sources.cache`, `patients_cache`, `pairs_cache`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.files import content_digest, write_text
from datasets.sources import DataError

FORMAT = 1
LATEST = "latest-{task}.txt"
COUNTED = {"recordings": "recordings", "samples": "beats", "skipped": "skipped"}
"""Tables whose number of rows stands in the manifest, and its name there."""
TEXT = ("recording", "set", "session", "person", "diagnosis", "site", "state", "reason", "remedy")
"""Columns that are text, whatever they look like."""


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

    def describe(self) -> dict[str, Any]:
        """Return what a run remembers of the cache, in plain types.

        That is its identity, source and settings, whether it is simulated, the versions it was prepared with,
        and checksums: of each table as it is now, and one of the checksums of all raw files.
        """
        names = ("identity", "source", "simulated", "settings", "versions")
        choices = self.manifest.get("choices", {})  # which caches of before do not have
        sources = json.dumps(self.manifest["source_files"], sort_keys=True)
        tables = {path.name: content_digest(path) for path in sorted(self.path.glob("*.csv"))}
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
            f"or {command} --simulate to try it on simulated patients."
        )
    return Cache(cache_dir / latest.read_text(encoding="utf-8").strip())
