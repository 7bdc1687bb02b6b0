"""The three scripts, called as a user calls them, on cohorts of simulated patients."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import evaluate
import load_data
import predict
import training
from common.errors import UserError
from common.script import run_script
from learning.checkpoint import load_checkpoint, save_checkpoint
from systems.base import training_run

ROOT = Path(__file__).parents[1]
CACHE_FILES = {
    "beats_ecg.npy",
    "beats_pcg.npy",
    "waveforms_ecg.npy",
    "waveforms_pcg.npy",
    "recordings.csv",
    "samples.csv",
    "events.csv",
    "skipped.csv",
    "manifest.json",
}
TINY = [
    *("--preset", "small", "--width", "8", "--points", "100", "--epochs", "1"),
    *("--precision", "float32", "--device", "cpu", "--threads", "1"),
]


@dataclass(frozen=True)
class Workspace:
    """One folder with raw recordings, caches, checkpoints, curves and results."""

    root: Path

    def prepare(self, *options: str) -> Path:
        places = ["--raw-dir", str(self.root / "raw"), "--cache-dir", str(self.root / "cache"), "--jobs", "1"]
        return load_data.main([*places, *options])

    def places(self) -> list[str]:
        return [
            *("--cache-dir", str(self.root / "cache"), "--checkpoint-dir", str(self.root / "checkpoints")),
            *("--log-dir", str(self.root / "runs")),
        ]

    def train(self, *options: str, tiny: bool = True) -> Path:
        return training.main([*(TINY if tiny else ()), *self.places(), *options])

    def evaluate(self, checkpoint: Path | None, *options: str, draws: int = 0) -> dict[str, Any]:
        named = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
        places = ["--cache-dir", str(self.root / "cache"), "--checkpoint-dir", str(self.root / "checkpoints")]
        results = ["--results-dir", str(self.root / "results"), "--bootstrap-draws", str(draws)]
        return evaluate.main([*named, *places, *results, *options])


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the files under a folder with their size and time of change."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def strict_json(path: Path) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{path.name} holds {word}, which strict readers refuse")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """Return a workspace with a small cohort, simulated and prepared by load_data.py."""
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    cohort = {"sessions": 8, "persons": 2, "recordings": 2, "duration": 6.0}
    workspace.prepare("--simulate", *(f"--simulation.{name}={value}" for name, value in cohort.items()))
    return workspace


@pytest.fixture(scope="module")
def session_run(workspace) -> Path:
    """Return a run of two folds, sessions kept apart: the defaults, but small."""
    return workspace.train("--folds", "0", "1", "--run-name", "sessions")


@pytest.fixture(scope="module")
def session_metrics(workspace, session_run) -> dict[str, Any]:
    return workspace.evaluate(session_run, draws=50)


@pytest.fixture(scope="module")
def paper_run(workspace) -> Path:
    return workspace.train("--protocol", "paper", "--folds", "0", "--run-name", "published")


# --- what is left behind -------------------------------------------------------------------------------


def test_cache_is_complete(workspace):
    (cache,) = (path for path in (workspace.root / "cache").iterdir() if path.is_dir())
    assert {path.name for path in cache.iterdir()} == CACHE_FILES
    manifest = strict_json(cache / "manifest.json")
    assert cache.name == f"simulated-physionet2016-{manifest['identity'][:8]}"
    assert manifest["simulated"] is True
    samples = pd.read_csv(cache / "samples.csv")
    assert len(samples) == manifest["counts"]["beats"] == len(np.load(cache / "beats_ecg.npy", mmap_mode="r"))


def test_preparing_again_computes_nothing(workspace):
    before = tree(workspace.root / "cache")
    workspace.prepare()
    after = tree(workspace.root / "cache")
    del before["latest-ecg-pcg.txt"], after["latest-ecg-pcg.txt"]
    assert after == before


def test_run_is_complete(session_run, workspace):
    files = {path.relative_to(session_run).as_posix() for path in session_run.rglob("*") if path.is_file()}
    folds = {f"fold_{number}/{name}.pt" for number in (0, 1) for name in ("best", "last")}
    assert files == {"settings.json", "splits.csv"} | folds
    assert session_run == workspace.root / "checkpoints" / "sessions"
    for number in (0, 1):
        content = torch.load(session_run / f"fold_{number}" / "best.pt", weights_only=True)
        assert (content["fold"], content["protocol"], content["task"]) == (number, "session", "ecg-pcg")
        assert content["settings"]["model"]["width"] == 8
        assert 0 <= content["threshold"] <= 1
        assert list((workspace.root / "runs" / "sessions" / f"fold_{number}").glob("events*"))


def test_results_are_complete(session_metrics, workspace):
    folder = workspace.root / "results" / "sessions"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files >= {"predictions.csv", "recordings.csv", "metrics.json", "report.md", "report.html"}
    for kind in ("roc", "precision_recall", "confusion", "calibration"):
        for unit in ("beats", "recordings"):
            assert f"figures/{kind}_{unit}.png" in files
    assert "figures/decision_curve_recordings.png" in files
    report = (folder / "report.md").read_text()
    for name in ("subgroups", "calibration", "labels_permuted_among_persons"):
        assert f"{name}.csv" in files
        assert f"## {name.replace('_', ' ').capitalize()}" in report
    stored = strict_json(folder / "metrics.json")
    assert stored == json.loads(json.dumps(session_metrics))
    assert stored["counts"]["folds"] == 2
    assert stored["run"]["settings"]["model"]["width"] == 8
    assert len(stored["run"]["checkpoints"]) == 2


def test_the_first_line_says_that_the_data_are_simulated_and_hints_name_the_folders(workspace, capsys):
    run = workspace.train("--folds", "0", "--run-name", "first-lines")
    said = capsys.readouterr().out
    title = "from 30 recordings of SIMULATED patients in the layout of physionet2016"
    assert title in said.splitlines()[0] and "on 1 CPU thread (" in said.splitlines()[0]
    assert said.endswith(
        f"Evaluate: python evaluate.py --checkpoint {run} --cache-dir {workspace.root / 'cache'}\n"
    )
    workspace.evaluate(run, "--dry-run")
    assert "on 30 recordings of SIMULATED patients" in capsys.readouterr().out.splitlines()[0]
    record = workspace.root / "raw" / "training-a" / "a0001"
    with contextlib.suppress(SystemExit, UserError):  # it may be too short
        predict.main([str(record), "--checkpoint", str(run)])
    assert capsys.readouterr().out.startswith("SIMULATED patients trained this model")
    evaluate.main(
        ["--audit", "--cache-dir", str(workspace.root / "cache"), "--results-dir", str(workspace.root / "r")]
    )
    assert "of SIMULATED patients" in capsys.readouterr().out.splitlines()[0]


def test_a_run_trains_again_from_its_own_settings(workspace, session_run):
    """The same weights come out, whatever the defaults are."""
    again = training.main(
        ["--config", str(session_run), "--folds", "0", "--run-name", "again", *workspace.places()]
    )
    first, second = (
        torch.load(run / "fold_0" / "best.pt", weights_only=True)["model"] for run in (session_run, again)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_metrics_are_those_of_the_predictions(session_metrics, workspace):
    table = pd.read_csv(workspace.root / "results" / "sessions" / "predictions.csv")
    pooled = session_metrics["beats"]["at_half"]["pooled"]
    right = (table["probability"] >= 0.5).astype(int) == table["label"]
    assert pooled["accuracy"] == pytest.approx(right.mean())
    assert pooled["n"] == len(table)
    positive, negative = (table.loc[table["label"] == label, "probability"].to_numpy() for label in (1, 0))
    order = positive[:, None] - negative[None]
    assert pooled["auroc"] == pytest.approx(((order > 0) + 0.5 * (order == 0)).mean())
    recordings = table.groupby("recording")[["label", "probability"]].mean()
    at_half = session_metrics["recordings"]["at_half"]["pooled"]
    assert at_half["n"] == len(recordings)
    said = (recordings["probability"] >= 0.5) == (recordings["label"] == 1)
    assert at_half["accuracy"] == pytest.approx(said.mean())


# --- who is kept apart ---------------------------------------------------------------------------------


def test_no_session_of_the_test_part_is_learned_from(session_run, session_metrics, workspace):
    splits = pd.read_csv(session_run / "splits.csv")
    predictions = pd.read_csv(workspace.root / "results" / "sessions" / "predictions.csv")
    for number in (0, 1):
        part = splits[f"fold_{number}"]
        assert set(part) == {"train", "validation", "test"}
        sessions = {name: set(splits.loc[part == name, "session"]) for name in set(part)}
        assert not sessions["test"] & (sessions["train"] | sessions["validation"])
        assert not sessions["train"] & sessions["validation"]
        evaluated = predictions[predictions["fold"] == number]
        assert set(evaluated["sample"]) == set(splits.loc[part == "test", "sample"])
        content = load_checkpoint(session_run / f"fold_{number}" / "best.pt")
        assert set(content["trained_on"]["session"]) == sessions["train"] | sessions["validation"]
        assert not set(content["trained_on"]["session"]) & set(evaluated["session"])
    assert not set(splits.loc[splits["fold_0"] == "test", "session"]) & set(
        splits.loc[splits["fold_1"] == "test", "session"]
    )


def test_a_fold_that_shares_a_session_is_not_evaluated(workspace, session_run, tmp_path):
    """Evaluation asserts what the checkpoint promises; it does not take the file's word."""
    content = load_checkpoint(session_run / "fold_0" / "best.pt")
    parts = content["parts"].clone()
    parts[torch.nonzero(parts == 2).flatten()[0]] = 0
    torch.save(content | {"parts": parts}, tmp_path / "best.pt")
    with pytest.raises(AssertionError, match="1 sessions in both train and test"):
        workspace.evaluate(tmp_path / "best.pt")


def test_paper_protocol_is_watermarked_everywhere(workspace, paper_run, capsys):
    content = load_checkpoint(paper_run / "fold_0" / "best.pt")
    capsys.readouterr()
    metrics = workspace.evaluate(paper_run)
    folder = workspace.root / "results" / "published"
    assert "selected on test" in metrics["stamp"]
    assert "selected on test" in capsys.readouterr().out
    assert "selected on test" in strict_json(folder / "metrics.json")["stamp"]
    assert "selected on test" in (folder / "report.md").read_text()
    for table in folder.glob("*.csv"):
        assert pd.read_csv(table)["stamp"].str.contains("selected on test").all(), table.name
    splits = pd.read_csv(paper_run / "splits.csv")
    assert set(splits["fold_0"]) == {"train", "test"}
    assert content["threshold"] == 0.5, "no threshold is chosen on the test fold"
    train, test = (set(splits.loc[splits["fold_0"] == part, "session"]) for part in ("train", "test"))
    assert train & test, "beats of one session are on both sides: that is what the watermark is about"


def test_session_protocol_is_not_watermarked_so(session_metrics, workspace):
    assert session_metrics["stamp"] == "simulated data"
    assert "selected on test" not in (workspace.root / "results" / "sessions" / "report.md").read_text()


def test_final_fit_on_everything_is_not_evaluated(workspace):
    run = workspace.train("--folds", "none", "--run-name", "final")
    content = load_checkpoint(run / "fold_all" / "best.pt")
    assert (content["parts"] == 0).all()
    assert set(pd.read_csv(run / "splits.csv")["fold_all"]) == {"train"}
    for checkpoint in (run, run / "fold_all", run / "fold_all" / "best.pt"):
        with pytest.raises(UserError, match="final fit on everything: no recording of this cache is left"):
            workspace.evaluate(checkpoint)
    assert not (workspace.root / "results" / "final").exists()


# --- again and again -----------------------------------------------------------------------------------


def test_evaluating_twice_gives_the_same(session_run, session_metrics, workspace):
    folder = workspace.root / "results" / "sessions"
    before = {name: (folder / name).read_bytes() for name in ("metrics.json", "predictions.csv", "report.md")}
    assert workspace.evaluate(session_run, draws=50) == session_metrics
    assert before == {name: (folder / name).read_bytes() for name in before}


def test_one_checkpoint_file(workspace, session_run, session_metrics, tmp_path):
    options = ["--results-dir", str(tmp_path)]
    metrics = workspace.evaluate(session_run / "fold_1" / "best.pt", *options)
    assert metrics["counts"]["folds"] == 1
    every = pd.read_csv(workspace.root / "results" / "sessions" / "predictions.csv")
    one = pd.read_csv(tmp_path / "sessions" / "predictions.csv")
    pd.testing.assert_frame_equal(one, every[every["fold"] == 1].reset_index(drop=True))


def test_threshold_of_the_validation_part(workspace, session_run, tmp_path):
    metrics = workspace.evaluate(session_run, "--threshold", "validation", "--results-dir", str(tmp_path))
    table = pd.read_csv(tmp_path / "sessions" / "predictions.csv")
    for number in (0, 1):
        stored = load_checkpoint(session_run / f"fold_{number}" / "best.pt")["threshold"]
        assert table.loc[table["fold"] == number, "threshold"].tolist() == pytest.approx(
            [stored] * int((table["fold"] == number).sum())
        )
    said = (table["probability"] >= table["threshold"]).astype(int)
    pooled = metrics["beats"]["at_validation_threshold"]["pooled"]
    assert pooled["accuracy"] == pytest.approx((said == table["label"]).mean())


def test_newest_run_is_evaluated_by_default(workspace, session_run, paper_run, tmp_path):
    now = time.time()
    for run, age in ((session_run, 100), (paper_run, 0)):
        for best in run.glob("fold_*/best.pt"):
            os.utime(best, (now + 1000 - age, now + 1000 - age))
    assert workspace.evaluate(None, "--results-dir", str(tmp_path))["run"]["run"] == "published"


def test_folds_trained_one_by_one(workspace, capsys):
    run = workspace.train("--folds", "0", "--run-name", "piecemeal")
    first = tree(run)
    workspace.train("--folds", "1", "--run-name", "piecemeal")
    after = tree(run)
    assert all(after[name] == first[name] for name in first if name.startswith("fold_0"))
    splits = pd.read_csv(run / "splits.csv")
    assert {"fold_0", "fold_1"} <= set(splits), "splits.csv remembers the folds of both calls"
    assert workspace.evaluate(run)["counts"]["folds"] == 2
    with pytest.raises(UserError, match=r"already holds fold_0, fold_1.*--resume.*--overwrite"):
        workspace.train("--folds", "0", "1", "--run-name", "piecemeal")
    with pytest.raises(UserError, match=r"optimization.epochs: 1 then, 2 now"):
        workspace.train("--folds", "1", "--run-name", "piecemeal", "--resume", "--epochs", "2")
    capsys.readouterr()
    workspace.train("--folds", "0", "1", "--run-name", "piecemeal", "--resume")
    assert capsys.readouterr().out.count("is finished already") == 2
    assert {name: watermark for name, watermark in tree(run).items() if name.startswith("fold_")} == {
        name: watermark for name, watermark in after.items() if name.startswith("fold_")
    }


def test_same_seed_same_network_other_seed_another(workspace, session_run):
    again = workspace.train("--folds", "0", "--run-name", "same-seed")
    other = workspace.train("--folds", "0", "--run-name", "other", "--seed", "7")
    one, same, another = (
        load_checkpoint(run / "fold_0" / "best.pt")["model"] for run in (session_run, again, other)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], another[name]) for name in one)


def test_what_is_not_as_it_was_in_training_is_said(workspace, session_run, tmp_path, capsys, monkeypatch):
    """Versions, commit, data and settings of the folds: each that differs is named."""
    run = tmp_path / "sessions"
    shutil.copytree(session_run, run)
    places = ["--results-dir", str(tmp_path / "results")]
    path = run / "fold_1" / "best.pt"
    content = load_checkpoint(path)
    # whoever commits while tests run has another commit now
    monkeypatch.setattr("learning.checkpoint.provenance", lambda now=content["provenance"]: now)
    unchanged = workspace.evaluate(run, *places)["run"]["changed"]
    assert [line for line in unchanged if "which changes is not stored" not in line] == []
    capsys.readouterr()

    content["provenance"] = content["provenance"] | {"torch": "1.0", "commit": "0" * 12}
    content["settings"]["optimization"]["learning_rate"] = 0.5
    content["cache"]["tables"]["samples.csv"] = "another"
    content["cache"]["versions"]["scipy"] = "0.1"
    torch.save(content, path)
    metrics = workspace.evaluate(run, *places)
    said = capsys.readouterr().out
    for line in (
        "trained with torch 1.0, evaluated with",
        "trained with commit 000000000000, evaluated with",
        "fold 1 was trained with optimization.learning_rate 0.5, fold 0 with",
        "samples.csv of the prepared data is not the one trained on",
        "trained on 0.1",
    ):
        assert line in said
        assert any(line in changed for changed in metrics["run"]["changed"])
    report = (tmp_path / "results" / "sessions" / "report.html").read_text()
    assert "trained with torch 1.0" in report


# --- what is refused -----------------------------------------------------------------------------------


def test_a_cache_of_other_settings_is_another_cache(workspace, session_run, session_metrics, tmp_path):
    """The run cannot be continued on it; evaluated on it, what any fold learned from is left out."""
    other = workspace.prepare("--beat-points", "500", "--cache-dir", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"other settings \(prepared data: "):
        workspace.train("--folds", "2", "--run-name", "sessions", "--cache", str(other))
    with pytest.raises(UserError, match=r"No cache in .* is the one this run was trained from"):
        workspace.evaluate(session_run, "--cache-dir", str(tmp_path / "cache"))
    before = tree(workspace.root / "results")
    checkpoint, places = session_run / "fold_0" / "best.pt", ["--results-dir", str(tmp_path / "results")]
    metrics = workspace.evaluate(checkpoint, "--cache", str(other), *places)
    assert metrics["protocol"] == "external"
    assert tree(workspace.root / "results") == before
    evaluated = pd.read_csv(tmp_path / "results" / f"sessions-on-{other.name}" / "predictions.csv")
    learned = load_checkpoint(checkpoint)["trained_on"]
    assert set(evaluated["recording"]) & set(pd.read_csv(other / "recordings.csv")["recording"])
    assert not set(evaluated["recording"]) & set(learned["recording"])
    assert not set(evaluated["session"]) & set(learned["session"])


def test_a_cache_that_was_all_learned_from_is_refused(workspace, paper_run, tmp_path):
    """Under paper every recording has beats in the training part, so none is left for an external test."""
    other = workspace.prepare("--beat-points", "500", "--cache-dir", str(tmp_path))
    with pytest.raises(UserError, match=r"Every recording of .* was trained on: none is left"):
        workspace.evaluate(paper_run, "--cache", str(other))


def test_checkpoints_of_two_runs_are_not_mixed(workspace, session_run, paper_run, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(session_run / "fold_0", mixed / "fold_0")
    shutil.copytree(paper_run / "fold_0", mixed / "fold_1")
    with pytest.raises(UserError, match="belongs to run published, the others to sessions"):
        workspace.evaluate(mixed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "12"], "width must be a multiple of 8, and is 12"),
        (["--points", "300"], "Beats of 300 points cannot be made.*choose --points that divides 2000"),
        (["--folds", "5"], "no fold 5: --fold-count 5 numbers them 0 to 4"),
        (["--fold-count", "9"], "cannot make 9 folds.*--fold-count"),
        (["--batch-size", "0"], "--batch-size must be 1 or more, and is 0"),
        (["--device", "cuda:99"], "CUDA"),
        (["--cache", "nowhere"], "nowhere is no cache.*load_data.py"),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_training_refuses_in_one_sentence(workspace, options, message, dry, capsys):
    flags = ["--run-name", "refused", *(["--dry-run"] if dry else [])]
    with pytest.raises(UserError, match=message):
        workspace.train(*flags, *options)
    with pytest.raises(SystemExit) as end:
        run_script(lambda: workspace.train(*flags, *options))
    assert end.value.code == 2
    assert "Error: " in capsys.readouterr().err
    assert not list((workspace.root / "checkpoints" / "refused").glob("fold_*"))


def test_no_data_and_no_run(tmp_path):
    empty = Workspace(tmp_path)
    with pytest.raises(UserError, match=r"No prepared data in .*Run load_data.py first.*--simulate"):
        empty.train()
    with pytest.raises(UserError, match=r"no trained run in .*Train one with training.py"):
        empty.evaluate(None)
    with pytest.raises(UserError, match=r"Looked for .*--download.*--simulate"):
        empty.prepare()
    assert tree(tmp_path) == {}


# --- dry runs ------------------------------------------------------------------------------------------


def test_dry_runs_write_nothing(workspace, session_run, session_metrics, tmp_path, capsys):
    before = tree(workspace.root)
    workspace.prepare("--dry-run")
    workspace.prepare("--dry-run", "--bandpass")
    assert "Nothing was written" in capsys.readouterr().out
    workspace.train("--dry-run", "--run-name", "dry", "--batch-size", "64")
    said = capsys.readouterr().out
    for promised in ("fold_0, fold_1, fold_2, fold_3, fold_4", "parameters", "s an epoch", "GB of memory"):
        assert promised in said
    workspace.evaluate(session_run, "--dry-run", "--results-dir", str(tmp_path / "results"))
    assert "Would evaluate" in capsys.readouterr().out
    assert tree(workspace.root) == before
    fresh = Workspace(tmp_path / "fresh")
    fresh.prepare("--simulate", "--raw-dir", str(workspace.root / "raw"), "--dry-run")
    assert tree(tmp_path) == {}


# --- killed, and continued -----------------------------------------------------------------------------


def test_killed_in_mid_epoch_and_resumed_is_the_run_left_alone(workspace):
    options = [*TINY, *workspace.places(), "--folds", "0", "--epochs", "3", "--batch-size", "4"]
    killed = workspace.root / "checkpoints" / "killed" / "fold_0"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "training.py"), *options, "--run-name", "killed"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 600
        while not (killed / "last.pt").exists():
            assert process.poll() is None, "training ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL
    stopped = load_checkpoint(killed / "last.pt")
    assert 1 <= stopped["progress"]["epoch"] <= 2
    assert not stopped["progress"]["finished"]
    assert not (killed / "best.pt").exists()

    training.main([*options, "--run-name", "killed", "--resume"])
    training.main([*options, "--run-name", "undisturbed"])
    for name in ("last.pt", "best.pt"):
        one = load_checkpoint(killed / name)
        other = load_checkpoint(workspace.root / "checkpoints" / "undisturbed" / "fold_0" / name)
        assert one["model"].keys() == other["model"].keys()
        assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"]), name
        assert one["progress"]["epoch"] == other["progress"]["epoch"] == 3
        assert one.get("threshold") == other.get("threshold")
        for scores in (*one["progress"]["history"], *other["progress"]["history"]):
            del scores["samples_per_second"]
        assert one["progress"] == other["progress"]


@pytest.mark.parametrize(
    ("begun", "here", "goes_on", "said"),
    [
        ("float32", torch.bfloat16, "float32", False),
        ("bfloat16", torch.bfloat16, "bfloat16", False),
        ("bfloat16", torch.float32, "float32", True),
    ],
)
def test_a_run_goes_on_in_the_precision_it_was_begun_in(
    workspace, monkeypatch, capsys, begun, here, goes_on, said
):
    settings = "--folds 0 --precision auto --points 250 --schedule constant"
    options = [*settings.split(), "--run-name", f"begun-in-{begun}-here-{here}"]
    monkeypatch.setattr(training_run, "choose_precision", lambda *_: getattr(torch, begun))
    fold = workspace.train(*options) / "fold_0"
    assert load_checkpoint(fold / "best.pt")["precision"] == begun
    stopped = load_checkpoint(fold / "last.pt")
    stopped["progress"] |= {"epoch": 0, "step": 0, "finished": False, "history": []}
    save_checkpoint(fold / "last.pt", stopped)
    (fold / "best.pt").unlink()

    monkeypatch.setattr(training_run, "choose_precision", lambda *_: here)
    capsys.readouterr()
    workspace.train(*options, "--resume")
    assert load_checkpoint(fold / "best.pt")["precision"] == goes_on
    assert ("fold_0 was begun in bfloat16, which this machine" in capsys.readouterr().out) == said


# --- the finding ---------------------------------------------------------------------------------------


def test_splitting_beats_flatters_and_splitting_sessions_does_not(tmp_path):
    """One network, one cohort of strong fingerprints: near perfect on beats, far from it on new sessions."""
    workspace = Workspace(tmp_path)
    cohort = {"sessions": 10, "persons": 3, "recordings": 2, "duration": 8.0, "fingerprint": 2.0}
    workspace.prepare("--simulate", *(f"--simulation.{name}={value}" for name, value in cohort.items()))
    auroc = {}
    for protocol, folds in (("beat", ["0"]), ("session", ["0", "1"])):
        size = ["--width", "16", "--points", "500", "--epochs", "6", "--batch-size", "32"]
        run = workspace.train("--protocol", protocol, "--folds", *folds, *size)
        auroc[protocol] = workspace.evaluate(run)["beats"]["at_half"]["pooled"]["auroc"]
    assert auroc["beat"] > 0.95
    assert auroc["session"] < auroc["beat"] - 0.1
