"""The ECG-CMR chain through the three scripts, on simulated patients: parents, folds, scores."""

from pathlib import Path

import pandas as pd
import pytest
import torch

import evaluate
import load_data
import training
from common.errors import UserError
from learning.checkpoint import load_checkpoint

VIEWS = ["--frames", "4", "--size", "32", "--pixel-spacing", "4.4", "--seconds", "2", "--ecg-rate", "100"]
TINY = ["--preset", "small", "--width", "16", "--depth", "1", "--heads", "2", "--patch-seconds", "0.4"]
TINY += ["--epochs", "2", "--batch-size", "8", "--precision", "float32", "--device", "cpu", "--threads", "1"]


class Workspace:
    """One folder with simulated pairs, checkpoints, curves and results."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places = ["--cache-dir", str(root / "cache")]

    def prepare(self, patients: int, *options: str) -> Path:
        words = ["ecg-mae", "--simulate", "--patients", str(patients), "--jobs", "1", *VIEWS, *self.places]
        return load_data.main([*words, *options])

    def train(self, task: str, name: str, *options: str) -> Path:
        places = ["--checkpoint-dir", str(self.root / "checkpoints"), "--log-dir", str(self.root / "runs")]
        return training.main([task, *TINY, *self.places, *places, "--run-name", name, *options])

    def evaluate(self, checkpoint: Path, *options: str) -> dict:
        places = ["--results-dir", str(self.root / "results"), "--bootstrap-draws", "20", "--threads", "1"]
        return evaluate.main(["--checkpoint", str(checkpoint), *self.places, *places, *options])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("pairs"))
    workspace.prepare(40)
    return workspace


@pytest.fixture(scope="module")
def chain(workspace) -> dict[str, Path]:
    ecg, cmr = workspace.train("ecg-mae", "ecg"), workspace.train("cmr-mae", "cmr")
    both = workspace.train("ecg-cmr-contrast", "both", "--init-ecg", str(ecg), "--init-cmr", str(cmr))
    phenotypes = workspace.train("ecg-phenotypes", "phenotypes", "--init-ecg", str(both))
    return {"ecg-mae": ecg, "cmr-mae": cmr, "ecg-cmr-contrast": both, "ecg-phenotypes": phenotypes}


@pytest.fixture(scope="module")
def metrics(workspace, chain) -> dict[str, dict]:
    return {task: workspace.evaluate(run) for task, run in chain.items()}


def test_every_stage_is_evaluated_on_the_same_patients_whom_none_has_seen(workspace, chain, metrics):
    evaluated = {}
    for task, run in chain.items():
        assert metrics[task]["stamp"] == "simulated data" and metrics[task]["counts"]["patients"] == 8
        evaluated[task] = pd.read_csv(workspace.root / "results" / run.name / "predictions.csv")[
            "session"
        ].tolist()
    assert len({tuple(people) for people in evaluated.values()}) == 1
    content = load_checkpoint(chain["ecg-phenotypes"] / "fold_0" / "best.pt")
    learned = set(content["trained_on"]["session"])
    learned |= {name for parent in content["parents"] for name in parent["session"]}
    assert not learned & set(evaluated["ecg-mae"])


def test_tables_and_figures_of_each_stage(workspace, chain, metrics):
    for task, names in {
        "ecg-mae": {"reconstruction.csv"},
        "ecg-cmr-contrast": {"retrieval.csv", "figures/retrieval.png"},
        "ecg-phenotypes": {
            *("indicators.csv", "diseases.csv", "decisions.csv", "calibration.csv"),
            *("figures/indicators.png", "figures/roc.png", "figures/decision_curves.png"),
        },
    }.items():
        folder = workspace.root / "results" / chain[task].name
        assert all((folder / name).stat().st_size > 50 for name in names | {"report.html", "report.md"})
    rollouts = list((folder / "figures").glob("rollout_*.png"))
    assert len(rollouts) == len(pd.read_csv(folder / "diseases.csv")) - 1  # less the mean over all
    table = pd.read_csv(folder / "indicators.csv").set_index("indicator")
    assert table.loc["ejection_fraction", "r2_ceiling"] == 0.3


def test_what_no_ecg_can_know_is_no_bound_for_the_cine_itself(workspace, chain):
    run = workspace.train("ecg-phenotypes", "cine", "--reads", "cmr", "--init-cmr", str(chain["cmr-mae"]))
    metrics = workspace.evaluate(run)
    assert all(row["r2_ceiling"] is None for row in metrics["indicators"])
    assert not list((workspace.root / "results" / "cine" / "figures").glob("rollout_*"))


def test_children_remember_their_parents(chain):
    content = load_checkpoint(chain["ecg-cmr-contrast"] / "fold_0" / "best.pt")
    assert [(parent["kind"], parent["run"]) for parent in content["parents"]] == [
        ("ecg", "ecg"),
        ("cmr", "cmr"),
    ]
    assert all(len(parent["sha256"]) == 64 and len(parent["session"]) == 32 for parent in content["parents"])


def test_another_seed_has_other_folds_and_the_child_is_refused(workspace, chain):
    with pytest.raises(UserError, match=r"was trained on \d+ patients of this run's test part"):
        workspace.train("ecg-phenotypes", "late", "--init-ecg", str(chain["ecg-mae"]), "--seed", "7")


def test_a_stage_goes_on_from_where_it_stopped_and_ends_the_same(workspace, chain):
    options = ["--init-ecg", str(chain["ecg-cmr-contrast"]), "--schedule", "constant"]
    whole = workspace.train("ecg-phenotypes", "whole", *options)
    workspace.train("ecg-phenotypes", "parts", *options, "--epochs", "1")
    stopped = workspace.root / "checkpoints" / "parts"
    settings = (stopped / "settings.json").read_text()
    (stopped / "settings.json").write_text(settings.replace('"epochs": 1', '"epochs": 2'))
    last = stopped / "fold_0" / "last.pt"
    content = load_checkpoint(last)
    content["progress"]["finished"] = False
    torch.save(content, last)
    workspace.train("ecg-phenotypes", "parts", *options, "--resume")
    one, other = (load_checkpoint(run / "fold_0" / "last.pt")["model"] for run in (whole, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_new_patients_are_an_external_test_of_the_whole_chain(workspace, chain):
    other = workspace.prepare(12, "--simulation.seed", "5")
    try:
        metrics = workspace.evaluate(chain["ecg-phenotypes"], "--compact", "--cache", str(other))
    finally:
        workspace.prepare(40)  # the newest again
    assert metrics["protocol"] == "external" and metrics["counts"]["patients"] == 12


def test_two_runs_of_function_and_disease_are_compared(workspace, chain, metrics, capsys):
    folder = workspace.root / "results" / chain["ecg-phenotypes"].name
    places = ["--results-dir", str(workspace.root / "results"), "--bootstrap-draws", "20"]
    evaluate.main(["--compare", str(folder), str(folder), *places])
    said = capsys.readouterr().out
    assert "8 recordings of 8 patients in both" in said
    table = pd.read_csv(workspace.root / "results" / "comparisons" / "phenotypes--phenotypes.csv")
    assert len(table) == 19 and (table["difference"].dropna() == 0).all()
    other = workspace.root / "results" / chain["ecg-mae"].name
    with pytest.raises(UserError, match=r"is of ecg-phenotypes, .* is of ecg-mae"):
        evaluate.main(["--compare", str(folder), str(other), *places])
    with pytest.raises(UserError, match=r"has results of ecg-mae without recordings\.csv"):
        evaluate.main(["--compare", str(other), str(other), *places])
    with pytest.raises(UserError, match="evaluate that run first"):
        evaluate.main(["--compare", str(folder.with_name("no")), str(folder.with_name("no")), *places])
