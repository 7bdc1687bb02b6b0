"""Scripts on simulated patients: any subset of views from one checkpoint, credit where it is due."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

import evaluate
import load_data
import predict
import training
from common.errors import UserError

TASK = "ecg-multimodal"
TINY = [
    "--width",
    "8",
    "--epochs",
    "2",
    "--fold-count",
    "3",
    "--folds",
    "0",
    "1",
    "--validation-share",
    "0.2",
]
TINY += ["--precision", "float32", "--device", "cpu", "--threads", "1", "--preset", "small"]
SUBSETS = {
    *("image", "signal", "clinical", "image + signal", "image + clinical", "signal + clinical"),
    "image + signal + clinical",
}


class Workspace:
    """One folder with simulated patients, caches, checkpoints, curves and results."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self, *options: str) -> Path:
        views = ["--image-width", "340", "--signal-rate", "50", "--jobs", "1"]
        places = ["--raw-dir", str(self.root / "raw"), "--cache-dir", str(self.root / "cache")]
        return load_data.main([TASK, *places, *views, *options])

    def train(self, name: str, *options: str) -> Path:
        places = ["--cache-dir", str(self.root / "cache"), "--checkpoint-dir", str(self.root / "checkpoints")]
        logs = ["--log-dir", str(self.root / "runs"), "--run-name", name]
        return training.main([TASK, *TINY, *places, *logs, *options])

    def evaluate(self, checkpoint: Path, *options: str) -> tuple[dict, Path]:
        places = ["--cache-dir", str(self.root / "cache"), "--results-dir", str(self.root / "results")]
        words = [
            "--checkpoint",
            str(checkpoint),
            *places,
            "--bootstrap-draws",
            "20",
            "--threads",
            "1",
            *options,
        ]
        metrics = evaluate.main(words)
        return metrics, self.root / "results"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("patients"))
    workspace.prepare("--simulate", "--simulation.patients", "45")
    return workspace


@pytest.fixture(scope="module")
def run(workspace) -> Path:
    return workspace.train("three-views")


@pytest.fixture(scope="module")
def results(workspace, run) -> Path:
    _, folder = workspace.evaluate(run)
    return folder / "three-views"


def test_cache_has_what_the_task_reads(workspace):
    (cache,) = (path for path in (workspace.root / "cache").iterdir() if path.is_dir())
    names = {path.name for path in cache.iterdir()}
    assert names >= {
        "signals.npy",
        "images.npy",
        "clinical.csv",
        "samples.csv",
        "skipped.csv",
        "manifest.json",
    }
    assert (workspace.root / "cache" / f"latest-{TASK}.txt").read_text().strip() == cache.name
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert workspace.prepare() == cache
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before


def test_every_subset_of_views_is_evaluated_from_one_checkpoint(results):
    subsets = pd.read_csv(results / "subsets.csv")
    assert set(subsets["views"]) == SUBSETS
    assert subsets["value"].between(0, 1).all()
    metrics = json.loads((results / "metrics.json").read_text())
    whole = subsets.set_index("views").loc["image + signal + clinical", "value"]
    assert whole == pytest.approx(metrics["recordings"]["at_half"]["pooled"]["auroc"], abs=1e-5)


def test_credits_sum_to_what_is_above_chance(results):
    credit = pd.read_csv(results / "credits.csv").set_index("view")["value"]
    whole = pd.read_csv(results / "subsets.csv").set_index("views").loc["image + signal + clinical", "value"]
    assert credit[["image", "signal", "clinical"]].sum() == pytest.approx(credit["sum"], abs=1e-5)
    assert credit["sum"] == pytest.approx(whole - 0.5, abs=1e-5)


def test_results_are_complete_and_watermarked(results):
    files = {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()}
    assert files >= {"predictions.csv", "recordings.csv", "report.md", "shortcuts.csv", "contributions.csv"}
    for name in (
        "subsets",
        "contributions",
        "patient_surest_abnormal",
        "patient_least_sure",
        "roc_recordings",
    ):
        assert f"figures/{name}.png" in files
    assert "simulated data" in (results / "report.md").read_text()
    assert "draws of whole patients" in (results / "report.md").read_text()


def test_a_hidden_view_is_evaluated_in_a_folder_of_its_own(workspace, run, results):
    _, folder = workspace.evaluate(run, "--without", "image+clinical", "--compact")
    alone = pd.read_csv(folder / "three-views-without-image+clinical" / "recordings.csv")
    whole = pd.read_csv(results / "recordings.csv")
    assert alone["recording"].tolist() == whole["recording"].tolist()
    assert not alone["probability"].equals(whole["probability"])


def test_no_patient_of_the_test_part_is_learned_from(run):
    splits = pd.read_csv(run / "splits.csv")
    for fold in ("fold_0", "fold_1"):
        learned = set(splits.loc[splits[fold] != "test", "person"])
        assert not learned & set(splits.loc[splits[fold] == "test", "person"])


def test_a_stopped_run_goes_on_exactly(workspace, run):
    part = workspace.train("stopped", "--epochs", "1", "--folds", "0", "--schedule", "constant")
    whole = workspace.train("whole", "--epochs", "2", "--folds", "0", "--schedule", "constant")
    settings = part / "settings.json"
    settings.write_text(settings.read_text().replace('"epochs": 1', '"epochs": 2'))
    last = torch.load(part / "fold_0" / "last.pt", weights_only=True)
    last["progress"]["finished"] = False
    torch.save(last, part / "fold_0" / "last.pt")
    workspace.train("stopped", "--epochs", "2", "--folds", "0", "--schedule", "constant", "--resume")
    weights = [torch.load(path / "fold_0" / "best.pt", weights_only=True)["model"] for path in (part, whole)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_one_view_alone(workspace):
    run = workspace.train("signal-alone", "--views", "signal", "--modality-dropout", "0", "--folds", "0")
    metrics, folder = workspace.evaluate(run)
    assert metrics["counts"]["folds"] == 1
    assert not (folder / "signal-alone" / "subsets.csv").exists()
    assert (folder / "signal-alone" / "figures" / "patient_least_sure.png").exists()


def test_a_run_that_needs_all_views_is_not_explained_by_subsets_of_them(workspace):
    run = workspace.train("all-views", "--modality-dropout", "0", *ONE_FOLD)
    _, folder = workspace.evaluate(run)
    assert (folder / run.name / "figures" / "roc_recordings.png").exists()
    assert not list((folder / run.name / "figures").glob("patient_*.png"))


ONE_FOLD = ["--epochs", "1", "--folds", "0"]


@pytest.fixture(scope="module")
def branch(workspace) -> Path:
    """A run of the signal branch alone, both folds."""
    return workspace.train("branch", "--views", "signal", "--epochs", "1")


def weights_of(run: Path, fold: int = 0) -> dict:
    return torch.load(run / f"fold_{fold}" / "best.pt", weights_only=True)


def test_a_fusion_starts_from_a_branch_of_the_same_fold_and_keeps_it(workspace, branch):
    options = ["--init-signal", str(branch), "--freeze", "signal", "--epochs", "1"]
    run = workspace.train("from-branch", *options)
    for fold in (0, 1):
        before, after = weights_of(branch, fold), weights_of(run, fold)
        of_branch = [name for name in before["model"] if name.startswith("branches.signal.")]
        assert len(of_branch) > 20
        assert all(torch.equal(before["model"][name], after["model"][name]) for name in of_branch)
        (parent,) = after["parents"]
        assert (parent["kind"], parent["run"]) == ("signal", "branch")
        for known in ("session", "content"):
            assert parent[known] == sorted(map(str, before["trained_on"][known]))
    different = weights_of(branch, 1)["model"]
    name = "branches.signal.project.0.weight"
    assert not torch.equal(weights_of(run)["model"][name], different[name])
    learning = workspace.train("not-frozen", *options[:2], *ONE_FOLD)
    assert not torch.equal(weights_of(learning)["model"][name], weights_of(branch)["model"][name])


def test_any_column_of_the_labels_is_learned_evaluated_and_predicted(workspace, tmp_path, capsys):
    raw = tmp_path / "raw"
    shutil.copytree(workspace.root / "raw", raw)
    (file,) = raw.glob("labels.*")
    labels = pd.read_csv(file) if file.suffix == ".csv" else pd.read_excel(file)
    file.unlink()
    cells = ["sr", "afib", "pace"] * 15
    labels.assign(rhythm=cells).to_csv(raw / "labels.csv", index=False)
    other = Workspace(tmp_path)
    other.prepare("--source", "patients", "--unlabelled", "keep", "--high-pass", "0.5", "--baseline")
    more = ["--signal-gain", "0.1", "--signal-noise", "0.05", "--signal-shift", "0.1"]
    run = other.train("rhythm", "--target", "rhythm", *ONE_FOLD, *more, "--modulation", "0.3")
    content = weights_of(run)
    assert content["inputs"]["classes"] == ["afib", "pace", "sr"]
    metrics, folder = other.evaluate(run)
    assert set(metrics["classes"]) == {"afib", "pace", "sr"}
    confusion = pd.read_csv(folder / "rhythm" / "confusion.csv", index_col="truth")
    assert confusion.to_numpy().sum() == metrics["counts"]["samples"]
    shares = confusion.to_numpy().diagonal().sum() / confusion.to_numpy().sum()
    assert metrics["accuracy"] == pytest.approx(shares)
    rows = predict.main([str(raw), "--checkpoint", str(run), "--threads", "1"])
    assert "hold where all classes are equally frequent" in " ".join(capsys.readouterr().out.split())
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4) for row in rows)
    log = pd.read_csv(other.root / "runs" / "rhythm" / "fold_0" / "log.csv")
    assert {"train/gate_image", "val/gate_signal", "train/branch_image", "train/damped_clinical"} <= set(log)


def test_a_branch_that_was_trained_on_test_patients_is_refused(workspace, branch):
    with pytest.raises(UserError, match=r"trained on \d+ patients of this run's test part"):
        workspace.train("leak", "--init-signal", str(branch / "fold_1" / "best.pt"), *ONE_FOLD)
    with pytest.raises(UserError, match=r"trained on \d+ patients of this run's test part"):
        workspace.train("other-seed", "--init-signal", str(branch), "--seed", "7", *ONE_FOLD)


def test_a_branch_of_signals_that_were_filtered_otherwise_is_refused(workspace, branch, tmp_path):
    places = ["--raw-dir", str(workspace.root / "raw"), "--cache-dir", str(tmp_path)]
    views = ["--image-width", "340", "--signal-rate", "50", "--jobs", "1", "--high-pass", "0.5"]
    filtered = load_data.main([TASK, *places, *views])
    options = ["--cache", str(filtered), "--init-signal", str(branch), *ONE_FOLD]
    with pytest.raises(UserError, match=r"trained with high_pass 0\.0, and this run has 0\.5"):
        workspace.train("filtered", *options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--init-image"], "without a branch for the image view"),
        (["--width", "16", "--init-signal"], r"another size: give the same --width \(8\)"),
        (["--views", "image", "--init-signal"], "does not read the signal view"),
        (["--freeze", "image", "--init-signal"], "--freeze image would keep a random branch"),
        (["--image-weights", "w.pth", "--init-image"], "Give --image-weights or --init-image"),
    ],
)
def test_a_start_that_cannot_be_is_refused(workspace, branch, options, message):
    with pytest.raises(UserError, match=message):
        workspace.train("refused", *options, str(branch), *ONE_FOLD)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "superclasses"], "no superclasses"),
        (["--protocol", "official"], "no official folds"),
        (["--width", "12"], "width must be a multiple of 8"),
        (["--image-weights", "nowhere.pt"], "nowhere.pt"),
    ],
)
def test_training_refuses_in_one_sentence(workspace, options, message):
    with pytest.raises(UserError, match=message):
        workspace.train("refused", *options)


def test_a_cache_of_the_other_task_is_refused(workspace, simulated_cache):
    with pytest.raises(UserError, match=r"prepared for another task"):
        workspace.train("other", "--cache", str(simulated_cache.path))
    with pytest.raises(UserError, match=r"prepared for another task"):
        (cache,) = (path for path in (workspace.root / "cache").iterdir() if path.is_dir())
        training.main(
            ["--cache", str(cache), "--log-dir", "nowhere", "--checkpoint-dir", "nowhere", "--folds", "0"]
        )


def test_nothing_prepared_for_this_task(tmp_path):
    with pytest.raises(UserError, match=r"load_data.py ecg-multimodal --raw-dir PATH.*, or .*--simulate"):
        training.main([TASK, "--cache-dir", str(tmp_path)])
