"""Faults: a few of the interruptions of ``make torture``, and what two runs at once, other caches and other
versions do.
"""

import errno
import os
import shutil
import signal

import numpy as np
import pytest
import torch

import evaluate
import training
from common.errors import UserError
from learning.checkpoint import load_checkpoint
from tests.robustness.faults import (
    EVALUATION,
    PREPARATION,
    STAGES,
    TRAINING,
    Bench,
    assert_error,
)
from tests.robustness.forks import Fault, Forker
from tests.robustness.stale_artifacts import cache_of, hold, two_at_once


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Return the three stages, each run once undisturbed."""
    with Forker() as forker:
        yield Bench(forker, tmp_path_factory.mktemp("faults") / "bench")


# Killed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "share"), [(PREPARATION, 0.9), (TRAINING, 0.4), (TRAINING, 0.97), (EVALUATION, 0.7)]
)
def test_killed_between_two_files_and_begun_again(bench, name, share):
    stage = bench.stages[name]
    bench.kill_at_change(stage, max(1, round(share * stage.changes)))


@pytest.mark.parametrize(("name", "share"), [(PREPARATION, 0.5), (TRAINING, 0.7)])
def test_killed_at_any_moment_and_begun_again(bench, name, share):
    stage = bench.stages[name]
    bench.kill_after(stage, share * stage.seconds)


# The disk refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STAGES)
def test_a_full_disk_is_reported_and_costs_nothing(bench, name):
    stage = bench.stages[name]
    at = max(1, round(0.6 * stage.changes))
    bench.refuse(stage, Fault("refuse", at, error=errno.ENOSPC), "disk is full|No space left")


def test_a_disk_that_fills_up_in_the_middle_of_a_checkpoint(bench):
    ended = bench.refuse(bench.stages[TRAINING], Fault("limit", 30_000), "cannot be written")
    assert ended.code == 2


@pytest.mark.parametrize("name", STAGES)
def test_a_folder_that_is_read_only_is_reported(bench, name):
    bench.refuse(bench.stages[name], Fault("refuse", 1, error=errno.EROFS), "read-only|Read-only")


def test_a_folder_that_one_may_not_write_to_is_reported(bench):
    bench.refuse(bench.stages[PREPARATION], Fault("refuse", 1, error=errno.EACCES), "not allowed|denied")


# Two at once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "share"), [(PREPARATION, 0.5), (TRAINING, 0.6), (EVALUATION, 0.5)])
def test_two_at_once(bench, name, share):
    """A second training is refused; two preparations or evaluations write the same, either may be last."""
    outcome = two_at_once(bench, bench.stages[name], share)
    assert outcome == ("the second reported, same result" if name == TRAINING else "same result")


def test_the_lock_of_a_dead_process_is_ignored(bench):
    stage = bench.stages[TRAINING]
    workplace = bench.fresh(stage)
    first = hold(bench, stage, workplace, 0.6)
    assert any((workplace.root / "checkpoints" / "run").glob(".lock_*"))
    os.kill(first, signal.SIGKILL)
    assert bench.forker.wait(first).code == -9
    bench.assert_runs(stage, workplace)


def test_a_cache_that_vanishes_during_training(bench):
    stage = bench.stages[TRAINING]
    workplace = bench.fresh(stage)
    process = hold(bench, stage, workplace, 0.3)
    shutil.rmtree(workplace.root / "cache")
    os.kill(process, signal.SIGCONT)
    assert_error(bench.forker.wait(process), "has no recordings.csv.*load_data.py")
    assert bench.run(bench.stages[PREPARATION], workplace).code == 0
    bench.assert_runs(stage, workplace)


# Caches and checkpoints that are not what they should be ---------------------------------------------


@pytest.fixture
def trained(bench):
    """Return a workplace after training."""
    return bench.fresh(bench.stages[EVALUATION])


def damage_npy(path):
    content = path.read_bytes()
    yield from (content[:size] for size in (0, 5, 60, 128, len(content) // 2, len(content) - 1))
    yield b"\x93NUMPY\x01\x00" + b"\xff" * 200
    yield b"PK\x03\x04" + content[4:]


@pytest.mark.parametrize("name", ["beats_ecg", "beats_pcg"])
def test_a_damaged_array_of_the_cache_is_named(trained, name):
    path = cache_of(trained) / f"{name}.npy"
    for content in list(damage_npy(path)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}.npy is damaged .* run load_data.py again"):
            training.main([*trained.arguments(TRAINING), "--run-name", "another"])


def test_an_array_that_would_run_code_is_not_loaded(trained):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(trained.root / "executed"),))

    np.save(cache_of(trained) / "beats_ecg.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"beats_ecg\.npy is damaged"):
        evaluate.main(trained.arguments(EVALUATION))
    assert not (trained.root / "executed").exists()


@pytest.mark.parametrize("name", ["samples", "recordings"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 99, None])
def test_a_damaged_table_of_the_cache_is_named(trained, name, content):
    path = cache_of(trained) / f"{name}.csv"
    half = b"".join(path.read_bytes().splitlines(keepends=True)[:5])
    path.write_bytes(half if content is None else content)
    with pytest.raises(UserError, match=rf"{name}.csv is damaged .* run load_data.py again"):
        training.main([*trained.arguments(TRAINING), "--run-name", "another"])


def test_a_checkpoint_of_another_version(trained):
    for name, main, stage in (("last", training.main, TRAINING), ("best", evaluate.main, EVALUATION)):
        path = trained.root / "checkpoints" / "run" / "fold_0" / f"{name}.pt"
        content = load_checkpoint(path)
        torch.save(content | {"format": 99}, path)
        before = path.read_bytes()
        with pytest.raises(UserError, match="has format 99, and this version reads 2"):
            main(trained.arguments(stage))
        assert path.read_bytes() == before
        torch.save(content, path)


def test_settings_of_a_run_that_are_damaged(trained):
    (trained.root / "checkpoints" / "run" / "settings.json").write_text('{"task": ')
    with pytest.raises(UserError, match=r"settings.json is damaged .*--overwrite"):
        training.main(trained.arguments(TRAINING))


def test_a_cache_of_other_settings_is_refused(bench, trained):
    """Preparing otherwise moves the note of the latest cache; going on with the run is then refused."""
    arguments = [*trained.arguments(PREPARATION), "--bandpass"]
    assert bench.forker.run("load_data", arguments, Fault()).code == 0
    with pytest.raises(UserError, match=r"other settings \(prepared data: "):
        training.main(trained.arguments(TRAINING))
    evaluate.main(trained.arguments(EVALUATION))
    bench.assert_undisturbed(bench.stages[EVALUATION], trained)
