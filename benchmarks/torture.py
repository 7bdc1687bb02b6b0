"""Interrupt, starve and mislead the software, and write down what became of it.

    python -m benchmarks.torture                                  # all of it
    python -m benchmarks.torture --mutations 100 --kills 12 --disks 12      # a quick look

Mutated recordings and tables (`tests.torture.mutations`): each is prepared as ``load_data.py`` does. What
must hold: no traceback, nothing outside the folder read, the bad recording named in skipped.csv or used as is
promised, every other recording with the very beats it has without the bad one, --strict stops. Faults
(`tests.torture.faults`): preparation, training and evaluation of a tiny cohort are killed, or refused the
disk, then begun again with the same command. What must hold: nothing half written can be read, the end is
bit for bit that of a run never disturbed. Prints a table, writes results/benchmarks/torture.csv, and leaves
with status 1 if a case failed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import random
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
import tyro
from tqdm import tqdm

from common.files import write_table
from common.script import run_script
from tests.torture.faults import STAGES, Bench
from tests.torture.forks import Ended, Fault, Forker
from tests.torture.houses import build_houses, prepare
from tests.torture.mutations import cases
from tests.torture.trial import run_case

TOLD = "full|No space|cannot be written|larger than is allowed|read-only|Read-only|not allowed|denied"
"""What a disk's refusal is called, one way or another."""


@dataclass(frozen=True)
class TortureSettings:
    """How much of each."""

    mutations: int = 1000
    """Mutated recordings and tables."""
    kills: int = 100
    """Moments at which a stage is killed, over the three stages."""
    disks: int = 60
    """Disks that are full, filling up or read-only, over the three stages."""
    figures: bool = True
    """Let evaluation draw its figures too."""
    seed: int = 0
    """Seed of the moments."""
    output: Path = Path("results/benchmarks/torture.csv")
    """Table to write."""


@dataclass
class Tally:
    """What came of the cases of one class."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


Tallies = dict[str, Tally]


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Run all cases and write the table; leave with status 1 if one of them failed."""
    settings = tyro.cli(TortureSettings, args=arguments, description=__doc__)
    tallies: Tallies = defaultdict(Tally)
    with tempfile.TemporaryDirectory() as folder:
        mutate(settings, Path(folder) / "mutations", tallies)
        if settings.kills or settings.disks:
            disturb(settings, Path(folder) / "faults", tallies)
    table = table_of(tallies)
    print(table.to_string(index=False))
    write_table(settings.output, table)
    print(f"Written to {settings.output}.")
    faults = [fault for tally in tallies.values() for fault in tally.faults]
    for fault in faults[:20]:
        print(f"\n{fault}", file=sys.stderr)
    if faults:
        sys.exit(1)
    return table


def table_of(tallies: Tallies) -> pd.DataFrame:
    """Return a row a class: cases, what came of them, and what was lost."""
    rows = []
    for name, tally in tallies.items():
        outcome = ", ".join(f"{count} {what}" for what, count in tally.outcomes.most_common())
        lost = f"{len(tally.faults)} cases failed" if tally.faults else "nothing"
        cases_tried = sum(tally.outcomes.values()) + len(tally.faults)
        rows.append({"class": name, "cases": cases_tried, "outcome": outcome, "lost": lost})
    return pd.DataFrame(rows)


def attempt(tally: Tally, name: str, case: Callable[[], str]) -> None:
    """Count the outcome of a case; keep what went wrong and go on."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            outcome = case()
        tally.outcomes[outcome] += 1
    except KeyboardInterrupt:
        raise
    except BaseException:  # a script that hangs raises none of the ordinary kinds
        tally.faults.append(f"{name}\n{traceback.format_exc()}")


def mutate(settings: TortureSettings, folder: Path, tallies: Tallies) -> None:
    """Prepare mutated recordings and tables."""
    folder.mkdir()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        houses = build_houses(folder)
        good = {layout: prepare(house, folder / "good").beats() for layout, house in houses.items()}
    for case in tqdm(list(cases(settings.mutations)), "mutations", unit="case"):
        attempt(
            tallies[f"input: {case.kind.group}"],
            str(case),
            partial(run_case, case, houses[case.layout], good[case.layout], folder / "case"),
        )


def disturb(settings: TortureSettings, folder: Path, tallies: Tallies) -> None:
    """Kill the three stages, and refuse them the disk."""
    with Forker() as forker:
        bench = Bench(forker, folder, settings.figures)
        rng = random.Random(settings.seed)
        planned = [*planned_kills(bench, settings.kills, rng), *planned_disks(bench, settings.disks, rng)]
        for name, case in tqdm(planned, "faults", unit="case"):
            attempt(tallies[f"fault: {name}"], name, case)


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
