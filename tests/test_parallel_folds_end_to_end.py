"""training.py --at-once: several folds beside each other are what they are one after the other."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import training
from common.errors import UserError
from datasets.cache import Cache
from learning.checkpoint import load_checkpoint

TINY = [
    *("--preset", "small", "--width", "8", "--points", "100", "--epochs", "1", "--batch-size", "32"),
    *("--precision", "float32", "--device", "cpu", "--threads", "1"),
]


def train(cache: Cache, root: Path, *options: str) -> Path:
    places = ["--checkpoint-dir", str(root / "checkpoints"), "--log-dir", str(root / "runs")]
    return training.main([*TINY, "--cache", str(cache.path), *places, *options])


@pytest.fixture(scope="module")
def runs(simulated_cache, tmp_path_factory) -> tuple[Path, Path]:
    """Return the same folds, trained beside each other and one after the other."""
    root = tmp_path_factory.mktemp("at_once")
    beside = train(simulated_cache, root, "--folds", "0", "1", "--run-name", "beside", "--at-once", "2")
    after = train(simulated_cache, root, "--folds", "0", "1", "--run-name", "after")
    return beside, after


def test_the_same_weights_bit_for_bit(runs):
    for fold in ("fold_0", "fold_1"):
        one, other = (load_checkpoint(run / fold / "best.pt") for run in runs)
        assert one["model"].keys() == other["model"].keys()
        assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
        assert one["threshold"] == other["threshold"]
        assert torch.equal(one["parts"], other["parts"])
        for content in (one, other):
            for scores in content["progress"]["history"]:
                del scores["samples_per_second"]
        assert one["progress"] == other["progress"]


def test_the_folder_is_that_of_one_run(runs):
    beside, after = ({path.relative_to(run) for path in run.rglob("*")} for run in runs)
    assert beside == after
    one, other = (pd.read_csv(run / "splits.csv") for run in runs)
    pd.testing.assert_frame_equal(one, other[one.columns])
    assert set(one) == set(other)
    logs = runs[0].parents[1] / "runs" / "beside"
    assert {path.name for path in logs.iterdir()} == {"fold_0", "fold_1", "fold_0.log", "fold_1.log"}
    assert "fold 0  epoch   1/1" in (logs / "fold_0.log").read_text()


def test_what_is_there_is_refused_resumed_and_overwritten(simulated_cache, runs, capfd):
    beside, root = runs[0], runs[0].parents[1]
    options = ["--run-name", "beside", "--at-once", "2"]
    with pytest.raises(UserError, match=r"already holds fold_1\. Go on with --resume"):
        train(simulated_cache, root, *options, "--folds", "1", "2")
    with pytest.raises(UserError, match=r"optimization.epochs: 1 then, 3 now"):
        train(simulated_cache, root, *options, "--folds", "1", "--resume", "--epochs", "3")
    assert "begins" not in capfd.readouterr().out, "no process was started for it"
    before = {fold: (beside / fold / "best.pt").stat().st_mtime_ns for fold in ("fold_0", "fold_1")}
    train(simulated_cache, root, *options, "--folds", "0", "--overwrite")
    after = {fold: (beside / fold / "best.pt").stat().st_mtime_ns for fold in ("fold_0", "fold_1")}
    assert after["fold_0"] > before["fold_0"] and after["fold_1"] == before["fold_1"]
    assert {"fold_0", "fold_1"} <= set(pd.read_csv(beside / "splits.csv")), "both are remembered"
    train(simulated_cache, root, *options, "--folds", "0", "--resume")
    log = root / "runs" / "beside" / "fold_0.log"
    assert "fold_0 is finished already." in log.read_text()
    assert json.loads((beside / "settings.json").read_text())["settings"]["at_once"] == 1


def test_a_fold_that_fails_ends_the_command_with_what_it_said(simulated_cache, tmp_path, capsys):
    odd = ["--model", "late-fusion", "--attention", "cascaded"]
    with pytest.raises(UserError, match="fold_0 failed, as said above"):
        train(simulated_cache, tmp_path, "--folds", "0", "--at-once", "3", *odd)
    said = capsys.readouterr().out
    assert "fold_0 failed (exit status 2)" in said and "late-fusion has no --attention to choose" in said


@pytest.mark.parametrize("options", [["--at-once", "0"], ["--at-once", "2", "--folds", "9"]])
def test_what_cannot_be_is_refused_before_anything_is_written(simulated_cache, tmp_path, options):
    with pytest.raises(UserError, match=r"--at-once must be 1 or more, and is 0|There is no fold 9"):
        train(simulated_cache, tmp_path, *options)
    assert not list(tmp_path.rglob("*.json"))
