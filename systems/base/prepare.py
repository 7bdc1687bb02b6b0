"""Preparing data: find or simulate raw recordings, index them, write their cache, and say what it holds."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from common.command_line import counted, path_option
from config import SourceSettings
from datasets.cache import SIMULATED, Cache, CacheWriter, remember_latest, source_title
from datasets.sources import DataError, SourceIndex, format_problems
from systems import registry

Settings = TypeVar("Settings", bound=SourceSettings)
Index = TypeVar("Index", bound=SourceIndex)


class Preparation(Generic[Settings, Index]):
    """Prepares the data of a task; a system says where they lie and what the cache holds.

    Parameters
    ----------
    settings : SourceSettings
        Of the system.
    task : str
    """

    unit: ClassVar[str] = "patients"
    sought: ClassVar[str]
    """What is looked for where no folder is named."""
    layouts: ClassVar[tuple[tuple[str, str], ...]]
    """Layouts of raw data, and a file or a folder (ending in a slash) of each; the first one found counts."""
    task_of_layout: ClassVar[dict[str, str]] = {}
    """The one task that a layout is for, where others of the system cannot learn from it."""
    first_task: ClassVar[dict[str, str]] = {}
    """What is trained first for a task that needs other runs."""
    variable = ""
    """Environment variable that names the usual folder; empty: none."""

    def __init__(self, settings: Settings, task: str) -> None:
        self.settings, self.task = settings, task

    # What a system says

    def plan(self) -> str:
        """Return what would be done, where that can be said without data; empty: it cannot.

        Raises
        ------
        DataError
            If options exclude each other, or no recording can be prepared with them.
        """
        raise NotImplementedError

    def simulate(self) -> Path:
        """Write simulated raw data, unless they are there; return their folder."""
        raise NotImplementedError

    def usual_folders(self) -> list[Path]:
        """Return where raw data may lie when no folder is named."""
        raise NotImplementedError

    def advice(self) -> str:
        """Return what a user without data can do."""
        raise NotImplementedError

    def index(self, root: Path, layout: str) -> Index:
        """Index the raw data of a folder."""
        raise NotImplementedError

    def writer(self, index: Index) -> CacheWriter[Index, Any]:
        """Return what writes the cache of an index."""
        raise NotImplementedError

    def cost(self, writer: CacheWriter[Index, Any], path: Path) -> str:
        """Return what writing a cache would read, write and take."""
        raise NotImplementedError

    def describe(self, cache: Cache, index: Index) -> list[str]:
        """Return what a cache holds and what was left out, in lines for the screen."""
        raise NotImplementedError

    def chosen(self, index: Index) -> dict[str, Any]:
        """Return what the user chose of what is read, where it is not as usual; names the cache."""
        usual = type(self.settings)()
        given = {key: getattr(self.settings, key) for key in index.choices if hasattr(usual, key)}
        plain = {key: value for key, value in given.items() if isinstance(value, str | int | float)}
        return {key: value for key, value in plain.items() if value != getattr(usual, key)}

    def serves(self, cache: Cache) -> Sequence[str]:
        """Return the tasks whose newest cache this one becomes."""
        return [self.task]

    # What all systems share

    def prepare(self) -> Path:
        """Prepare what the settings name; return the folder of the cache.

        Raises
        ------
        DataError
            If there are no data, or nothing of them can be used.
        """
        settings = self.settings
        plan = self.plan()
        if plan:
            print(plan)
            return settings.cache_dir
        index = self.source()
        writer = self.writer(index)
        writer.chosen = self.chosen(index)
        if settings.dry_run:
            print(self.estimate(writer))
            return settings.cache_dir
        started = time.perf_counter()
        path = writer.build(settings.cache_dir, jobs=settings.jobs, strict=settings.strict)
        cache = Cache(path)
        for task in self.serves(cache):
            remember_latest(path, task)
        seconds = time.perf_counter() - started
        command = self.next_command(cache) + path_option(
            "cache-dir", settings.cache_dir, SourceSettings.cache_dir
        )
        how = "was there already: nothing was computed" if writer.found else f"computed in {seconds:.1f} s"
        lines = [f"Cache: {path} ({how})", f"Next:  python {command}"]
        print("\n".join([*self.describe(cache, index), *format_warnings(cache, index), *lines]))
        return path

    def next_command(self, cache: Cache) -> str:
        """Return what a cache is for: the script and its words, but for the folder of the caches."""
        first = self.first_task.get(self.task, self.task)
        return "training.py" if first == "ecg-pcg" else f"training.py {first}"

    def source(self) -> Index:
        """Return the index of the raw data, after printing what is wrong with it."""
        index = self.open_raw()
        self.announce(index)
        if index.problems:
            print(format_problems(index.problems))
        print(f"{counted(len(index.recordings), 'recording')} in {index.root} ({index.name}).")
        return index

    def announce(self, index: Index) -> None:
        """Say first of all if no patient gave the data."""
        if index.simulated:
            print(f"{SIMULATED} patients: what is learned from them does not hold for real ones.")

    def open_raw(self) -> Index:
        """Return the index of the raw data, which are simulated first where that is asked for."""
        root = self.raw_dir()
        source = getattr(self.settings, "source", "auto")
        return self.index(root, self.layout_of(root) if source == "auto" else source)

    def raw_dir(self) -> Path:
        """Return the folder of raw data.

        Raises
        ------
        DataError
            If a simulation cannot be, or nothing is found; says where it looked, and what can be done.
        """
        if self.settings.simulate:
            try:
                return self.simulate()
            except ValueError as error:
                raise DataError(str(error)) from None
        named = self.settings.raw_dir
        folders = [named] if named else self.usual_folders()
        for folder in folders:
            root = self.find(folder)
            if root:
                return root
        looked = ", ".join(str(folder) for folder in folders)
        looked += " (does not exist)" if named and not named.exists() else ""
        unset = self.variable and not (named or os.environ.get(self.variable))
        raise DataError(
            f"No {self.unit} found. Looked for {self.sought} in: {looked}"
            f"{f' (${self.variable} is not set)' if unset else ''}. "
            f"{(named and self.hint_of_others(named)) or self.advice()}"
        )

    def hint_of_others(self, folder: Path) -> str:
        """Return which task a folder, or the one above it, is for; empty if for none."""
        if folder.is_file():
            return f"A folder is needed, and {folder} is a file: predict.py takes single recordings."
        for place, words in ((folder, "It"), (folder.parent, "The folder above it")):
            for task in registry.TASKS:
                other = registry.module_of(task, "prepare").PREPARATION
                layout = find_layout(place, other.layouts)
                if layout and other.task_of_layout.get(layout, task) == task:
                    word = "" if task == next(iter(registry.TASKS)) else f"{task} "
                    return (
                        f"{words} looks like {source_title(layout, False)}, which task {task} takes: "
                        f"python load_data.py {word}--raw-dir {shlex.quote(str(place))}"
                    )
        return ""

    def find(self, folder: Path) -> Path | None:
        """Return the root of the raw data that a folder belongs to; None if it holds none."""
        return folder if self.layout_of(folder) else None

    def layout_of(self, folder: Path) -> str:
        """Return which layout a folder has; empty if none."""
        return find_layout(folder, self.layouts)

    def from_environment(self) -> list[Path]:
        """Return the folder that the environment variable names, if it does."""
        value = os.environ.get(self.variable, "")
        return [Path(value)] if value else []

    def estimate(self, writer: CacheWriter[Index, Any]) -> str:
        """Return what preparation would write."""
        path = writer.path(self.settings.cache_dir)
        if path.is_dir():
            return f"{path} is there already: nothing would be computed."
        return f"Would {self.cost(writer, path)}. Nothing was written."


def find_layout(folder: Path, layouts: Sequence[tuple[str, str]]) -> str:
    """Return which of several layouts a folder has; empty if none."""
    for layout, pattern in layouts:
        found = [*folder.glob(pattern), *(one for one in folder.glob("*") if one.name.casefold() == pattern)]
        if any(path.is_dir() == pattern.endswith("/") for path in found):
            return layout
    return ""


_KINDS, _NAMES = 8, 4
"""Kinds of warnings that are shown, and recordings that are named of each."""


def format_warnings(cache: Cache, index: SourceIndex) -> list[str]:
    """Return lines of what is doubtful about recordings that are used, beyond what the index says.

    Warnings that differ by numbers alone are one kind: the first is shown, with how many there are and where.
    """
    known = {f"{problem.where}: {problem.what}" for problem in index.problems}
    known |= {f"{row.recording}: {row.reason}" for row in cache.table("skipped").itertuples()}
    kinds: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for text in cache.manifest["warnings"]:
        if text not in known:
            where, _, what = text.partition(": ")
            kinds[re.sub(r"\d+([.,]\d+)*", "#", what)].append((where, what))
    if not kinds:
        return []
    shown = sorted(kinds.values(), key=len, reverse=True)
    number = counted(sum(map(len, shown)), "warning")
    lines = [f"{number} about what is used; all are in {cache.path / 'manifest.json'}:"]
    for found in shown[:_KINDS]:
        names = ", ".join(where for where, _ in found[:_NAMES])
        lines.append(f"  {len(found):4d}  {names}{', ...' * (len(found) > _NAMES)}: {found[0][1]}")
    return lines + ([f"  ... and {len(shown) - _KINDS} other kinds."] if len(shown) > _KINDS else [])


def count_reasons(cache: Cache, limit: int = 8) -> tuple[list[str], int]:
    """Return lines of the most frequent reasons for which recordings were left out, and how many others."""
    reasons = cache.table("skipped")["reason"].value_counts()
    return [f"  {count:4d}  {reason}" for reason, count in reasons.head(limit).items()], max(
        len(reasons) - limit, 0
    )
