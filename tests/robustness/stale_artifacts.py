"""Caches, checkpoints and other processes that differ from what a stage expects."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from learning.checkpoint import load_checkpoint
from tests.robustness.faults import (
    EVALUATION,
    PREPARATION,
    TRAINING,
    Bench,
    Stage,
    Workplace,
    assert_error,
    assert_readable,
)
from tests.robustness.forks import Fault

OTHERS_CACHE = {
    TRAINING: r"other settings \(prepared data: .*another name with --run-name",
    EVALUATION: "is the one this run was trained from.*load_data.py",
}
OTHER_FORMAT = "has format 99, and this version reads 2.*train again"
DAMAGED_CACHE = "(is damaged|cannot be read|cache format).*Delete the folder.*run load_data.py again"
DAMAGED_CHECKPOINT = "cannot be read.*Train that fold again"


def hold(bench: Bench, stage: Stage, workplace: Workplace, share: float) -> int:
    """Start a stage and stop it after a share of its changes to files; return its process."""
    at = max(1, round(share * stage.changes))
    process = bench.start(stage, workplace, Fault("stop", at, str(workplace.root)))
    assert bench.forker.until_stopped(process)
    return process


def two_at_once(bench: Bench, stage: Stage, share: float) -> str:
    """Run a stage while the same command is running, then let that one end.

    A second training is refused; two preparations or evaluations write the same, each file whole.
    """
    with bench.temporary(stage) as workplace:
        first = hold(bench, stage, workplace, share)
        locked = bool(list((workplace.root / "checkpoints").glob("run/.lock_*")))
        second = bench.run(stage, workplace)
        if stage.name == TRAINING and locked:
            assert_error(second, f"is being trained by process {first} on .*--run-name")
        else:
            assert second.code == 0, second.output
        os.kill(first, signal.SIGCONT)
        ended = bench.forker.wait(first)
        assert ended.code == 0, ended.output
        assert_readable(workplace)
        bench.assert_undisturbed(stage, workplace)
        assert not list((workplace.root / "checkpoints").glob("run/.lock_*"))
        refused = second.code != 0
        return f"{'the second reported, ' if refused else ''}same result"


def cache_of(workplace: Workplace) -> Path:
    """Return the folder of the prepared recordings."""
    return next(path for path in (workplace.root / "cache").glob("[!.]*") if path.is_dir())


def other_cache(bench: Bench, name: str) -> str:
    """Prepare with other settings, remove the first cache, and resume the run: both are refused."""
    stage = bench.stages[name]
    with bench.temporary(bench.stages[EVALUATION]) as workplace:
        first = cache_of(workplace)
        other = [*workplace.arguments(PREPARATION), "--bandpass"]
        assert bench.forker.run("load_data", other, Fault()).code == 0
        kept = workplace.root / "kept"
        if name == EVALUATION:
            shutil.move(first, kept)
        assert_error(bench.run(stage, workplace), OTHERS_CACHE[name])
        if name == EVALUATION:
            shutil.move(kept, first)
        else:
            assert bench.run(bench.stages[PREPARATION], workplace).code == 0
        bench.assert_runs(stage, workplace)
        return "told, same result with the right cache"


def cut_cache(bench: Bench, rng: random.Random) -> str:
    """Truncate a file of the cache at any byte, then train; with the file restored the result is the same."""
    stage = bench.stages[TRAINING]
    with bench.temporary(stage) as workplace:
        names = ["beats_ecg.npy", "beats_pcg.npy", "samples.csv", "recordings.csv", "manifest.json"]
        path = cache_of(workplace) / rng.choice(names)
        content = path.read_bytes()
        lines = content.rstrip(b"\n")  # a table without its last line end is whole
        path.write_bytes(content[: rng.randrange(len(lines))])
        ended = bench.run(stage, workplace)
        assert_error(ended, DAMAGED_CACHE)
        path.write_bytes(content)
        bench.assert_runs(stage, workplace)
        return "told, same result once restored"


def other_checkpoint(bench: Bench, name: str, rng: random.Random) -> str:
    """Truncate a checkpoint, or change its format version; it is named in the error and not changed."""
    stage = bench.stages[name]
    with bench.temporary(bench.stages[EVALUATION]) as workplace:
        which = "last" if name == TRAINING else "best"
        path = workplace.root / "checkpoints" / "run" / f"fold_{rng.randrange(2)}" / f"{which}.pt"
        good = path.read_bytes()
        cut = bool(rng.randrange(2))
        if cut:
            path.write_bytes(good[: rng.randrange(len(good))])
        else:
            torch.save(load_checkpoint(path) | {"format": 99}, path)
        wrong = path.read_bytes()
        assert_error(bench.run(stage, workplace), DAMAGED_CHECKPOINT if cut else OTHER_FORMAT)
        assert path.read_bytes() == wrong
        path.write_bytes(good)
        bench.assert_runs(stage, workplace)
        return "told, same result with the right file"


def planned_stale_artifacts(
    bench: Bench, count: int, rng: random.Random
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield a name and a case, over all faults in turn."""
    for number in range(count):
        share, generator = rng.uniform(0.05, 0.95), random.Random(rng.random())
        faults = [
            (f"{name}: two at once", partial(two_at_once, bench, stage, share))
            for name, stage in bench.stages.items()
        ]
        faults.append((f"{TRAINING}: cache cut short", partial(cut_cache, bench, generator)))
        for name in OTHERS_CACHE:
            faults.append((f"{name}: cache of other settings", partial(other_cache, bench, name)))
            what = "checkpoint cut short, or of another version"
            faults.append((f"{name}: {what}", partial(other_checkpoint, bench, name, generator)))
        yield faults[number % len(faults)]
