"""Interrupt, starve and mislead the software, and write down what became of it.

    python -m studies.robustness                                  # all of it
    python -m studies.robustness --resume                                   # go on with one that was stopped
    python -m studies.robustness --mutations 100 --kills 12 --disks 12      # a quick look

Mutated recordings and tables (`tests.robustness.mutations`): each is prepared as ``load_data.py`` does. What
must hold: no traceback, nothing outside the folder read, the bad recording named in skipped.csv or used as is
promised, every other recording with the very beats it has without the bad one, --strict stops. Faults
(`tests.robustness.faults`): preparation, training and evaluation of a tiny cohort are killed, or refused the
disk, then begun again with the same command; two are run at once, and caches and checkpoints are swapped,
cut short or of another version (`tests.robustness.stale_artifacts`). What must hold: a sentence says what is
wrong, nothing half written can be read, the end is bit for bit that of a run never disturbed. Prints a table,
writes results/benchmarks/torture.csv, and leaves with status 1 if a case failed.
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
import tyro
from tqdm import tqdm

from common.files import write_table
from common.script import run_script
from tests.robustness.faults import STAGES, Bench
from tests.robustness.forks import Ended, Fault, Forker
from tests.robustness.mutations import cases
from tests.robustness.stale_artifacts import planned_stale_artifacts
from tests.robustness.trial import run_case
from tests.robustness.workspaces import build_workspaces, prepare

TOLD = "full|No space|cannot be written|larger than is allowed|read-only|Read-only|not allowed|denied"
"""What a disk's refusal is called, one way or another."""


@dataclass(frozen=True)
class RobustnessSettings:
    """How much of each."""

    mutations: int = 1000
    """Mutated recordings and tables."""
    kills: int = 100
    """Moments at which a stage is killed, over the three stages."""
    disks: int = 60
    """Disks that are full, filling up or read-only, over the three stages."""
    stale_artifacts: int = 40
    """Runs two at a time, and caches and checkpoints that are damaged or of something else."""
    figures: bool = True
    """Let evaluation draw its figures too."""
    seed: int = 0
    """Seed of the moments."""
    output: Path = Path("results/benchmarks/torture.csv")
    """Table to write."""
    journal: Path = Path("data/torture.jsonl")
    """Where each case is noted when it is done, for --resume."""
    resume: bool = False
    """Keep what the journal says of cases that passed, and try the others."""


@dataclass
class Tally:
    """What came of the cases of one class."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


@dataclass
class Trials:
    """All cases so far by class, and the journal that remembers them."""

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
        """Count the outcome of a case; keep what went wrong and go on."""
        tally = self.tallies[group]
        if name in self.passed:
            tally.outcomes[self.passed[name]] += 1
            return
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
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
    """Run all cases and write the table; leave with status 1 if one of them failed."""
    settings = tyro.cli(RobustnessSettings, args=arguments, description=__doc__)
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
    """Return a row a class: cases, what came of them, and what was lost."""
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
    """Return what came of a kill and the same command again."""
    return "same result after going on" if kill().code == -9 else "done before the kill, same result"


def planned_disks(bench: Bench, count: int, rng: random.Random) -> Planned:
    """Yield disks that refuse: full, filling up in the middle of a file, read-only, and really full."""
    mounts = bench.can_mount()
    for number in range(count):
        stage = list(bench.stages.values())[number % len(STAGES)]
        change, size = rng.randint(1, stage.changes), rng.randint(1, stage.largest)
        closed = rng.choice([errno.EROFS, errno.EACCES])
        kinds: dict[str, Callable[[], Ended]] = {
            "disk full": partial(bench.refuse, stage, Fault("refuse", change, error=errno.ENOSPC), TOLD),
            "file cut off in the middle": partial(bench.refuse, stage, Fault("limit", size), TOLD),
            "folder read-only": partial(bench.refuse, stage, Fault("refuse", 1, error=closed), TOLD),
        }
        if mounts:
            share = rng.uniform(0.05, 0.95)
            kinds["small file system full"] = partial(bench.in_small_disk, stage, share, TOLD)
        name = list(kinds)[number // len(STAGES) % len(kinds)]
        yield f"{stage.name}: {name}", partial(refused, kinds[name])


def refused(refuse: Callable[[], Ended]) -> str:
    """Return what came of a disk that refuses and the same command again."""
    return "told, same result after going on" if refuse().code else "not reached, same result"


if __name__ == "__main__":
    run_script(main)
