"""Protocol database from labels.csv to the report, on simulated recordings of two hospitals."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import evaluate
import load_data
import training
from common.errors import UserError
from datasets.splits import LeakageError
from learning.checkpoint import load_checkpoint
from systems.ecg_pcg.audit import audit, audit_failed, database_baseline, named_databases
from systems.ecg_pcg.settings import TrainingSettings
from systems.ecg_pcg.task import EcgPcg
from tests.test_end_to_end import TINY, strict_json

NETWORKS = {
    "linear": [],
    "pcg-network": [],
    "pacfnet": ["--modality-dropout", "0.5"],
}


@pytest.fixture(scope="module")
def cohort(simulated_raw, tmp_path_factory):
    """Return a cohort of two hospitals, of four sessions each."""
    root = tmp_path_factory.mktemp("databases") / "raw"
    shutil.copytree(simulated_raw, root)
    truth = pd.read_csv(simulated_raw / "ground_truth.csv")
    truth = truth[truth["quality"] == 1]
    north = truth["session"].isin(["C1", "C2", "C3", "C4"])
    names = truth["recording"]
    labels = pd.DataFrame(
        {
            "recording": "training-a/" + names,
            "session": truth["session"],
            "label": truth["label"],
            "database": np.where(north, "north", "south"),
            "annotation": "annotations/hand_corrected/training-a_StateAns/" + names + "_StateAns.mat",
        }
    )
    labels.to_csv(root / "labels.csv", index=False)
    return root


@pytest.fixture(scope="module")
def places(cohort):
    root = cohort.parent
    cache = ["--cache-dir", str(root / "cache")]
    load_data.main(["--raw-dir", str(cohort), *cache, "--jobs", "1"])
    return [*cache, "--checkpoint-dir", str(root / "checkpoints")]


def train(places, *options):
    runs = places[-1].replace("checkpoints", "runs")
    return training.main([*TINY, *places, "--log-dir", runs, "--protocol", "database", *options])


@pytest.fixture(scope="module")
def linear_run(places):
    return train(places, "--model", "linear", "--run-name", "linear")


@pytest.mark.parametrize("model", NETWORKS)
def test_every_model_runs_under_the_protocol_and_is_scored_by_database(model, places, tmp_path, capsys):
    run = train(places, "--model", model, "--run-name", f"of-{model}", *NETWORKS[model])
    printed = capsys.readouterr().out
    assert "Databases left out, by fold: 0 north, 1 south." in printed
    assert "fold 0 (north left out)" in printed
    metrics = evaluate.main(
        [*places, "--checkpoint", str(run), "--results-dir", str(tmp_path), "--bootstrap-draws", "20"]
    )
    printed = capsys.readouterr().out
    assert "2 of 2 folds" in printed
    assert "pooled" not in printed
    found = metrics["by_database"]["recordings"]
    assert list(found["databases"]) == ["north", "south"]
    folder = tmp_path / run.name
    assert strict_json(folder / "metrics.json")["by_database"]["recordings"] == json.loads(json.dumps(found))
    recordings = pd.read_csv(folder / "recordings.csv")
    assert set(zip(recordings["database"], recordings["fold"], strict=True)) == {("north", 0), ("south", 1)}
    assert {path.name for path in (folder / "figures").iterdir()} >= {"auroc_by_database.png"}
    for name in ("report.html", "report.md", "metrics.json"):
        assert "pooled" not in (folder / name).read_text(encoding="utf-8")
    assert "Scores by database" in (folder / "report.md").read_text(encoding="utf-8")


def test_checkpoints_and_splits_name_the_databases(linear_run):
    content = load_checkpoint(linear_run / "fold_1" / "best.pt")
    assert content["trained_on"]["database"] == ["north"]
    splits = pd.read_csv(linear_run / "splits.csv")
    assert set(splits.loc[splits["fold_1"] == "test", "database"]) == {"south"}
    assert set(splits.loc[splits["fold_1"] == "train", "database"]) == {"north"}


def test_a_fold_that_learned_from_the_left_out_database_is_not_evaluated(linear_run, places, tmp_path):
    content = load_checkpoint(linear_run / "fold_0" / "best.pt")
    tested = int(torch.nonzero(content["parts"] == 2)[0])
    content["parts"][tested] = 0
    changed = tmp_path / "run" / "fold_0" / "best.pt"
    changed.parent.mkdir(parents=True)
    torch.save(content, changed)
    with pytest.raises(LeakageError, match="in both train and test"):
        evaluate.main([*places, "--checkpoint", str(changed), "--results-dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--fold-count", "5"], r"makes 2 \(north, south\), and --fold-count is 5"),
        (["--folds", "2"], "There is no fold 2"),
    ],
)
def test_another_number_of_folds_is_refused(places, options, sentence):
    with pytest.raises(UserError, match=sentence):
        train(places, "--model", "linear", "--run-name", "refused", *options)


def test_one_database_is_refused_with_what_to_prepare(simulated_cache):
    with pytest.raises(UserError, match=r"there is only training-a: prepare several"):
        training.main(
            ["--cache", str(simulated_cache.path), "--protocol", "database", "--model", "linear", "--dry-run"]
        )


@pytest.mark.parametrize(("protocol", "expected"), [("database", 0.5), ("session", 0.75)])
def test_the_curve_of_the_validation_part_is_a_mean_over_databases(protocol, expected):
    """Each database gets one probability, its share of abnormal: 1 and 3 of 4."""
    table = pd.DataFrame({"database": list("aaaabbbb"), "label": [0, 0, 0, 1, 0, 1, 1, 1]})
    task = EcgPcg.create(TrainingSettings(protocol=protocol))
    probability = torch.tensor([0.25] * 4 + [0.75] * 4)
    scores = task.score(SimpleNamespace(table=table), torch.arange(8), probability)
    assert scores["auroc"] == expected


def test_another_cache_of_several_databases_is_scored_by_database(
    linear_run, places, simulated_cache, tmp_path
):
    """The run is said to be of another cache, and of other recordings than those it is tested on."""
    content = load_checkpoint(linear_run / "fold_0" / "best.pt")
    content["cache"] |= {"identity": simulated_cache.identity}
    content["trained_on"]["content"] = []
    changed = tmp_path / "run" / "fold_0" / "best.pt"
    changed.parent.mkdir(parents=True)
    torch.save(content, changed)
    (cache,) = (path for path in Path(places[1]).iterdir() if path.is_dir())
    options = ["--cache", str(cache), "--results-dir", str(tmp_path), "--bootstrap-draws", "0"]
    metrics = evaluate.main(["--checkpoint", str(changed), *options])
    assert metrics["protocol"] == "external"
    assert set(metrics["by_database"]["recordings"]["databases"]) == {"north", "south"}


# The audit ------------------------------------------------------------------------------------------


def hospitals(shares, sessions=40) -> pd.DataFrame:
    """Return two recordings of each session of databases of these shares of abnormal."""
    rows = [
        (f"{name}{number}-{part}", f"{name}{number}", f"{name}{number}", name, int(number < share * sessions))
        for name, share in shares.items()
        for number in range(sessions)
        for part in range(2)
    ]
    return pd.DataFrame(rows, columns=["recording", "session", "person", "database", "label"])


def test_the_database_tells_the_label_as_far_as_shares_differ():
    assert database_baseline(hospitals({"a": 1.0, "b": 0.0})) == 1
    assert database_baseline(hospitals({"a": 0.5, "b": 0.5})) == pytest.approx(0.5, abs=0.1)
    # of a pair, abnormal in a (.8 of them) and normal in b (.8): .64 right, .04 wrong, the others tie
    assert database_baseline(hospitals({"a": 0.8, "b": 0.2})) == pytest.approx(0.64 + 0.32 / 2, abs=0.02)


def test_features_name_the_database_only_where_they_hold_it():
    recordings = hospitals({"a": 0.5, "b": 0.5, "c": 0.5})
    noise = np.random.default_rng(0).standard_normal((len(recordings), 20))
    code = pd.factorize(recordings["database"])[0][:, None]
    accuracy, largest, auroc = named_databases(noise + 4 * (code == np.arange(20)), recordings).values()
    assert accuracy > 0.9
    assert largest == pytest.approx(1 / 3)
    assert auroc > 0.98
    accuracy, _, auroc = named_databases(noise, recordings).values()
    assert accuracy == pytest.approx(1 / 3, abs=0.1)
    assert auroc == pytest.approx(0.5, abs=0.1)


def test_a_session_is_not_known_again_when_databases_are_named():
    """Each session has a mark of its own, the databases none: a session in both parts would give it away."""
    recordings = hospitals({"a": 0.5, "b": 0.5})
    marks = np.random.default_rng(1).standard_normal((len(recordings) // 2, 200)).repeat(2, axis=0)
    accuracy, *_ = named_databases(marks, recordings).values()
    assert accuracy == pytest.approx(0.5, abs=0.15)


def test_the_audit_counts_databases_and_finds_one_that_was_learned_from():
    recordings = hospitals({"a": 0.75, "b": 0.25}, sessions=8)
    samples = recordings[["recording"]].assign(sample=np.arange(len(recordings)))
    apart = np.where(recordings["database"] == "a", 2, 0)
    report = audit(samples, recordings, {"database": [apart]})
    found = {row.check: row.value for row in report.rows}
    assert found["number of sessions of a"] == found["number of persons of b"] == 8
    assert found["number of recordings of b"] == 16
    assert found["share of abnormal recordings of a"] == 0.75
    assert not audit_failed(report)
    leaked = apart.copy()
    leaked[:2] = 0  # both recordings of one session
    report = audit(samples, recordings, {"database": [leaked]})
    broken = [row.check for row in report.rows if row.kept is False]
    assert broken == ["share of test samples whose database was learned from"]
    alone = audit(samples, recordings[recordings["database"] == "a"], {})
    assert not [row for row in alone.rows if "database" in row.check]
