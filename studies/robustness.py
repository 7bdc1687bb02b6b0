"""Robustness of the software to damaged input and to faults.

    python -m studies.robustness                                  # all of it
    python -m studies.robustness --resume                         # continue one that was stopped
    python -m studies.robustness --mutations 100 --kills 12 --disks 12      # a quick run

Mutated recordings and tables (`tests.robustness.mutations`): each is prepared as ``load_data.py`` does. What
must hold: no traceback, nothing outside the folder read, the bad recording listed in skipped.csv or used as
promised, every other recording with the same beats as without the bad one, --strict stops. Faults
(`tests.robustness.faults`): preparation, training and evaluation of a tiny cohort are killed, or refused the
disk, then begun again with the same command; two are run at once, and caches and checkpoints are swapped,
cut short or of another version (`tests.robustness.stale_artifacts`). What must hold: an error message,
nothing half written can be read, and the results are bit for bit those of a run without interruption. Prints
a table, writes results/benchmarks/torture.csv, and exits with status 1 if a case failed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import random
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from common.command_line import read_settings
from common.files import write_table
from common.script import run_script
from tests.robustness.faults import STAGES, Bench
from tests.robustness.forks import Ended, Fault, Forker
from tests.robustness.mutations import cases
from tests.robustness.stale_artifacts import planned_stale_artifacts
from tests.robustness.trial import run_case
from tests.robustness.workspaces import build_workspaces, prepare

DISK_ERRORS = "full|No space|cannot be written|larger than is allowed|read-only|Read-only|not allowed|denied"
"""Messages of a disk that refuses."""


@dataclass(frozen=True)
class RobustnessSettings:
    """Number of cases."""

    mutations: int = 1000
    """Mutated recordings and tables."""
    kills: int = 100
    """Moments at which a stage is killed, over the three stages."""
    disks: int = 60
    """Disks that are full, filling up or read-only, over the three stages."""
    stale_artifacts: int = 40
    """Runs two at a time, and caches and checkpoints that are damaged or of something else."""
    figures: bool = True
    """Include figures in evaluation."""
    seed: int = 0
    """Seed of the moments."""
    output: Path = Path("results/benchmarks/torture.csv")
    """Table to write."""
    journal: Path = Path("data/torture.jsonl")
    """Where each finished case is recorded, for --resume."""
    resume: bool = False
    """Keep the cases that passed by the journal, and run the others."""


@dataclass
class Tally:
    """Outcomes of the cases of one class."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


@dataclass
class Trials:
    """All cases so far by class, and the journal that lists them."""

    journal: Path
    passed: dict[str, str] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))

    @classmethod
    def open(cls, journal: Path, resume: bool) -> Trials:
        """Begin a journal, or read what passed by one that was begun."""
        journal.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            journal.unlink(missing_ok=True)
        lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
        noted = [json.loads(line) for line in lines if line.endswith("}")]
        return cls(journal, {row["case"]: row["outcome"] for row in noted})

    def attempt(self, group: str, name: str, case: Callable[[], str]) -> None:
        """Count the outcome of a case; keep its traceback if it fails."""
        tally = self.tallies[group]
        if name in self.passed:
            tally.outcomes[self.passed[name]] += 1
            return
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                outcome = case()
        except KeyboardInterrupt:
            raise
        except BaseException:  # a script that hangs raises none of the ordinary kinds
            tally.faults.append(f"{group}, {name}\n{traceback.format_exc()}")
            return
        tally.outcomes[outcome] += 1
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"case": name, "outcome": outcome}) + "\n")


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Run all cases and write the table; exit with status 1 if one of them failed."""
    settings = read_settings(RobustnessSettings, arguments, __doc__)
    trials = Trials.open(settings.journal, settings.resume)
    with tempfile.TemporaryDirectory() as folder:
        mutate(settings, Path(folder) / "mutations", trials)
        if settings.kills or settings.disks or settings.stale_artifacts:
            disturb(settings, Path(folder) / "faults", trials)
    table = table_of(trials.tallies)
    print(table.to_string(index=False))
    write_table(settings.output, table)
    print(f"Written to {settings.output}.")
    faults = [fault for tally in trials.tallies.values() for fault in tally.faults]
    for fault in faults[:20]:
        print(f"\n{fault}", file=sys.stderr)
    if faults:
        sys.exit(1)
    return table


def table_of(tallies: Mapping[str, Tally]) -> pd.DataFrame:
    """Return a row a class: cases, outcomes, and what was lost."""
    rows = []
    for name, tally in tallies.items():
        outcome = ", ".join(f"{count} {what}" for what, count in tally.outcomes.most_common())
        lost = f"{len(tally.faults)} cases failed" if tally.faults else "nothing"
        cases_tried = sum(tally.outcomes.values()) + len(tally.faults)
        rows.append({"class": name, "cases": cases_tried, "outcome": outcome, "lost": lost})
    return pd.DataFrame(rows)


def mutate(settings: RobustnessSettings, folder: Path, trials: Trials) -> None:
    """Prepare mutated recordings and tables."""
    folder.mkdir()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        workspaces = build_workspaces(folder)
        good = {
            layout: prepare(workspace, folder / "good").beats() for layout, workspace in workspaces.items()
        }
    for case in tqdm(list(cases(settings.mutations)), "mutations", unit="case"):
        trials.attempt(
            f"input: {case.mutation.group}",
            str(case),
            partial(run_case, case, workspaces[case.layout], good[case.layout], folder / "case"),
        )


def disturb(settings: RobustnessSettings, folder: Path, trials: Trials) -> None:
    """Kill the three stages, and refuse them the disk."""
    with Forker() as forker:
        bench = Bench(forker, folder, settings.figures)
        rng = random.Random(settings.seed)
        planned = [
            *planned_kills(bench, settings.kills, rng),
            *planned_disks(bench, settings.disks, rng),
            *planned_stale_artifacts(bench, settings.stale_artifacts, rng),
        ]
        for number, (name, case) in enumerate(tqdm(planned, "faults", unit="case")):
            trials.attempt(f"fault: {name}", f"{name}, {number}", case)


Planned = Iterator[tuple[str, Callable[[], str]]]


def planned_kills(bench: Bench, count: int, rng: random.Random) -> Planned:
    """Yield kills, over stages in turn: at a change to a file, and at any moment."""
    for number in range(count):
        stage = list(bench.stages.values())[number % len(STAGES)]
        if number // len(STAGES) % 2:
            name, kill = (
                "killed at any moment",
                partial(bench.kill_after, stage, rng.uniform(0, stage.seconds)),
            )
        else:
            name = "killed between two changes to files"
            kill = partial(bench.kill_at_change, stage, rng.randint(1, stage.changes))
        yield f"{stage.name} {name}", partial(killed, kill)


def killed(kill: Callable[[], Ended]) -> str:
    """Return the outcome of a kill and the same command again."""
    return "same result after going on" if kill().code == -9 else "done before the kill, same result"


def planned_disks(bench: Bench, count: int, rng: random.Random) -> Planned:
    """Yield disks that refuse: full, filling up in the middle of a file, read-only, and really full."""
    mounts = bench.can_mount()
    for number in range(count):
        stage = list(bench.stages.values())[number % len(STAGES)]
        change, size = rng.randint(1, stage.changes), rng.randint(1, stage.largest)
        closed = rng.choice([errno.EROFS, errno.EACCES])
        kinds: dict[str, Callable[[], Ended]] = {
            "disk full": partial(
                bench.refuse, stage, Fault("refuse", change, error=errno.ENOSPC), DISK_ERRORS
            ),
            "file cut off in the middle": partial(bench.refuse, stage, Fault("limit", size), DISK_ERRORS),
            "folder read-only": partial(bench.refuse, stage, Fault("refuse", 1, error=closed), DISK_ERRORS),
        }
        if mounts:
            share = rng.uniform(0.05, 0.95)
            kinds["small file system full"] = partial(bench.in_small_disk, stage, share, DISK_ERRORS)
        name = list(kinds)[number // len(STAGES) % len(kinds)]
        yield f"{stage.name}: {name}", partial(refused, kinds[name])


def refused(refuse: Callable[[], Ended]) -> str:
    """Return the outcome of a disk that refuses and the same command again."""
    return "told, same result after going on" if refuse().code else "not reached, same result"


if __name__ == "__main__":
    run_script(main)
