"""Caches, checkpoints and other processes that are not what a stage expects to find."""

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
    TRAINING: r"other settings \(the prepared data\).*another --run-name",
    EVALUATION: "is the one this run was trained from.*load_data.py",
}
OTHER_FORMAT = "has format 99, and this version reads 1.*train again"
DAMAGED_CACHE = "(is damaged|cannot be read|cache format).*Delete the folder.*run load_data.py again"
DAMAGED_CHECKPOINT = "cannot be read.*Train that fold again"


def hold(bench: Bench, stage: Stage, workplace: Workplace, share: float) -> int:
    """Start a stage and hold it still after a share of its changes to files; return its process."""
    at = max(1, round(share * stage.changes))
    process = bench.start(stage, workplace, Fault("stop", at, str(workplace.root)))
    assert bench.forker.until_stopped(process)
    return process


def two_at_once(bench: Bench, stage: Stage, share: float) -> str:
    """Run a stage while the same command is in the middle, and let that one end.

    A second training is refused; two preparations or evaluations write the same, each file whole.
    """
    workplace = bench.fresh(stage)
    try:
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
        return f"{'the second told, ' if refused else ''}same result"
    finally:
        shutil.rmtree(workplace.root)


def cache_of(workplace: Workplace) -> Path:
    """Return the folder of the prepared recordings."""
    return next(path for path in (workplace.root / "cache").glob("[!.]*") if path.is_dir())


def other_cache(bench: Bench, name: str) -> str:
    """Prepare with other settings, take the first cache away, and go on with the run: both are refused."""
    stage = bench.stages[name]
    workplace = bench.fresh(bench.stages[EVALUATION])
    try:
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
        assert bench.run(stage, workplace).code == 0
        bench.assert_undisturbed(stage, workplace)
        return "told, same result with the right cache"
    finally:
        shutil.rmtree(workplace.root)


def cut_cache(bench: Bench, rng: random.Random) -> str:
    """Cut a file of the cache short at any byte, then train; with the file restored all is as before."""
    stage = bench.stages[TRAINING]
    workplace = bench.fresh(stage)
    try:
        names = ["beats_ecg.npy", "beats_pcg.npy", "samples.csv", "recordings.csv", "manifest.json"]
        path = cache_of(workplace) / rng.choice(names)
        content = path.read_bytes()
        lines = content.rstrip(b"\n")  # a table without its last line end is whole
        path.write_bytes(content[: rng.randrange(len(lines))])
        ended = bench.run(stage, workplace)
        assert_error(ended, DAMAGED_CACHE)
        path.write_bytes(content)
        assert bench.run(stage, workplace).code == 0
        bench.assert_undisturbed(stage, workplace)
        return "told, same result once restored"
    finally:
        shutil.rmtree(workplace.root)


def other_checkpoint(bench: Bench, name: str, rng: random.Random) -> str:
    """Cut a checkpoint short, or let it be of another version; it is named and left as it is."""
    stage = bench.stages[name]
    workplace = bench.fresh(bench.stages[EVALUATION])
    try:
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
        assert bench.run(stage, workplace).code == 0
        bench.assert_undisturbed(stage, workplace)
        return "told, same result with the right file"
    finally:
        shutil.rmtree(workplace.root)


def planned_stale_artifacts(
    bench: Bench, count: int, rng: random.Random
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield a name and a case, over all kinds in turn."""
    for number in range(count):
        share, own = rng.uniform(0.05, 0.95), random.Random(rng.random())
        kinds = [
            (f"{name}: two at once", partial(two_at_once, bench, stage, share))
            for name, stage in bench.stages.items()
        ]
        kinds.append((f"{TRAINING}: cache cut short", partial(cut_cache, bench, own)))
        for name in OTHERS_CACHE:
            kinds.append((f"{name}: cache of other settings", partial(other_cache, bench, name)))
            what = "checkpoint cut short, or of another version"
            kinds.append((f"{name}: {what}", partial(other_checkpoint, bench, name, own)))
        yield kinds[number % len(kinds)]
