"""The linear model through the scripts: one row a recording, its own fit; audit and comparison."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb

import evaluate
import load_data
import training
from common.errors import UserError
from datasets.cache import Cache
from evaluation.scores import best_threshold
from learning.checkpoint import load_checkpoint
from systems.ecg_pcg.settings import ModelSettings, TrainingSettings
from systems.ecg_pcg.task import EcgPcg


def train(cache, folder, *options):
    return training.main(
        [
            *("--model", "linear", "--cache", str(cache), "--checkpoint-dir", str(folder / "checkpoints")),
            *("--log-dir", str(folder / "runs"), "--device", "cpu", "--threads", "1", "--fold-count", "2"),
            *options,
        ]
    )


def evaluate_run(cache, folder, run, *options):
    return evaluate.main(
        [
            *("--checkpoint", str(run), "--cache", str(cache), "--results-dir", str(folder / "results")),
            *("--bootstrap-draws", "50", *options),
        ]
    )


@pytest.fixture(scope="module")
def run(simulated_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("linear")
    return folder, train(simulated_cache.path, folder, "--protocol", "session")


def test_every_recording_is_evaluated_once_by_a_model_that_did_not_see_its_session(run, simulated_cache):
    folder, checkpoints = run
    metrics = evaluate_run(simulated_cache.path, folder, checkpoints)
    assert metrics["beats"] is None
    evaluated = pd.read_csv(folder / "results" / checkpoints.name / "recordings.csv")
    assert evaluated["recording"].is_unique
    splits = pd.read_csv(checkpoints / "splits.csv")
    for fold in (0, 1):
        of_fold = splits.groupby(f"fold_{fold}")["session"].agg(set)
        assert not of_fold["train"] & of_fold["test"]
        tested = set(evaluated.loc[evaluated["fold"] == fold, "recording"])
        assert tested == set(splits.loc[splits[f"fold_{fold}"] == "test", "recording"])


def test_the_threshold_comes_from_inside_the_training_part(run):
    folder, checkpoints = run
    stored = [load_checkpoint(checkpoints / f"fold_{fold}" / "best.pt")["threshold"] for fold in (0, 1)]
    evaluated = pd.read_csv(folder / "results" / checkpoints.name / "recordings.csv")
    on_test = [best_threshold(rows["label"], rows["probability"]) for _, rows in evaluated.groupby("fold")]
    assert stored != pytest.approx(on_test)
    assert all(0 < value < 1 for value in stored)


def test_hiding_the_ecg_leaves_the_answer_of_the_heart_sound(run, simulated_cache):
    folder, checkpoints = run
    evaluate_run(simulated_cache.path, folder, checkpoints, "--without", "ecg")
    evaluate_run(simulated_cache.path, folder, checkpoints, "--without", "pcg")
    evaluate_run(simulated_cache.path, folder, checkpoints)
    names = ["", "-without-ecg", "-without-pcg"]
    paths = [folder / "results" / f"{checkpoints.name}{name}" / "recordings.csv" for name in names]
    both, pcg, ecg = (pd.read_csv(path)["probability"].to_numpy() for path in paths)
    odds = [np.log(values / (1 - values)) for values in (both, pcg, ecg)]
    assert odds[0] == pytest.approx(odds[1] + odds[2], abs=1e-4)


def test_the_last_weights_are_scored_beside_the_best_ones(run, simulated_cache):
    folder, checkpoints = run
    evaluate_run(simulated_cache.path, folder, checkpoints)
    best = (folder / "results" / checkpoints.name / "metrics.json").stat()
    evaluate_run(simulated_cache.path, folder, checkpoints, "--which", "last", "--without", "pcg")
    assert (folder / "results" / checkpoints.name / "metrics.json").stat() == best
    assert (folder / "results" / f"{checkpoints.name}-last-without-pcg" / "metrics.json").is_file()


@pytest.mark.parametrize(("model", "named"), [("linear", 2), ("cycle-shape", 1)])
def test_signals_sampled_too_slowly_for_the_features_are_named(
    simulated_cache, tmp_path, capsys, model, named
):
    """Else another device is scored on silence above half its rate, where predict.py refuses the sound."""
    copy = tmp_path / "slow"
    shutil.copytree(simulated_cache.path, copy)
    task = EcgPcg.create(TrainingSettings(model=ModelSettings(model=model)))
    task.samples(Cache(copy), torch.device("cpu"))
    assert "is sampled below" not in capsys.readouterr().out
    recordings = pd.read_csv(copy / "recordings.csv", dtype={"recording": str})
    recordings.loc[:2, ["pcg_rate", "ecg_rate"]] = [1000.0, 128.0]
    recordings.to_csv(copy / "recordings.csv", index=False)
    task.samples(Cache(copy), torch.device("cpu"))
    said = capsys.readouterr().out
    assert "Note: the heart sound of 3 recordings is sampled below 1900 Hz" in said
    assert said.count("is sampled below") == named


@pytest.mark.parametrize("model", ["linear", "phase-fusion", "cycle-shape"])
def test_what_leaves_nothing_to_read_is_refused(simulated_cache, model):
    """In a sentence: the network's own answer is an error of a program."""
    task = EcgPcg.create(TrainingSettings(model=ModelSettings(model=model)))
    samples = task.samples(simulated_cache, torch.device("cpu"))
    batch = task.without(task.without(samples, "pcg"), "ecg").batch(torch.arange(2))
    with pytest.raises(UserError, match=f"Model {model} cannot be used: 2 of 2 recordings have no "):
        task.step(task.build(), batch)


def test_a_threshold_that_a_checkpoint_does_not_hold_is_refused(run, simulated_cache):
    folder, checkpoints = run
    with pytest.raises(UserError, match=r"last\.pt of fold_0 holds no threshold"):
        evaluate_run(
            simulated_cache.path, folder, checkpoints, "--which", "last", "--threshold", "validation"
        )


@pytest.mark.parametrize("model", ["linear", "phase-fusion", "cycle-shape"])
@pytest.mark.parametrize(
    "options",
    [
        ("--zeroed", "pcg"),
        ("--modality-dropout", "0.5"),
        ("--fusion-levels", "2", "4"),
        ("--levels", "4"),
        ("--attention", "parallel"),
        ("--focal-gamma", "2"),
        ("--no-class-weights",),
    ],
)
def test_options_of_networks_are_refused(simulated_cache, tmp_path, model, options):
    """Else a run named linear-no-pcg reads the heart sound."""
    with pytest.raises(UserError, match=f"{model} has no {options[0]}: leave it away"):
        train(simulated_cache.path, tmp_path, "--model", model, *options)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("protocol", ["paper", "beat"])
def test_protocols_that_split_beats_are_refused(simulated_cache, tmp_path, protocol):
    with pytest.raises(UserError, match=r"takes whole recordings.*--protocol recording, session or database"):
        train(simulated_cache.path, tmp_path, "--protocol", protocol)
    assert not (tmp_path / "checkpoints").exists()


def test_an_external_cache_is_evaluated_by_all_folds_and_what_was_trained_on_is_left_out(
    run, simulated_cache, tmp_path, capsys
):
    folder, checkpoints = run
    copy = tmp_path / "other"
    copy.mkdir()
    for path in simulated_cache.path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"identity": "0" * 64}))
    with pytest.raises(UserError, match=r"Every recording .* was trained on"):
        evaluate_run(copy, folder, checkpoints)
    recordings = pd.read_csv(copy / "recordings.csv", dtype={"recording": str})
    first, second, third = recordings["session"].drop_duplicates()[:3]
    new = recordings["session"].isin([first, second])
    also_new = recordings.index == recordings.index[recordings["session"] == third][0]
    recordings.loc[new | also_new, "sha256"] = "unseen"
    recordings.to_csv(copy / "recordings.csv", index=False)
    capsys.readouterr()
    metrics = evaluate_run(copy, folder, checkpoints)
    assert metrics["protocol"] == "external"
    assert metrics["counts"]["recordings"] == new.sum(), "one of a session that was trained on is none"
    said = f"Note: 2 sessions of this cache, {min(first, second)} among them, have the name of one that was"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("threshold", ["half", "validation"])
def test_at_the_prevalence_that_is_assumed_the_scores_are_those_of_the_table(
    run, simulated_cache, tmp_path, threshold
):
    _, checkpoints = run
    content = load_checkpoint(checkpoints / "fold_0" / "best.pt")
    torch.save(content | {"threshold": 0.9}, tmp_path / "strict.pt")
    options = ("--threshold", threshold, "--prevalence", "0.5", "--compact")
    metrics = evaluate_run(simulated_cache.path, tmp_path, tmp_path / "strict.pt", *options)
    found = pd.read_csv(tmp_path / "results" / checkpoints.name / "prevalence.csv").set_index("score")[
        "value"
    ]
    at = {"half": "at_half", "validation": "at_validation_threshold"}[threshold]
    expected = metrics["recordings"][at]["pooled"]
    for score in ("sensitivity", "specificity"):
        assert found[score] == pytest.approx(expected[score], abs=1e-4)


def test_two_runs_are_compared_and_one_with_itself_does_not_differ(run, simulated_cache, capsys):
    folder, checkpoints = run
    evaluate_run(simulated_cache.path, folder, checkpoints, "--compact")
    results = folder / "results" / checkpoints.name
    options = ["--results-dir", str(folder / "results"), "--bootstrap-draws", "50"]
    evaluate.main(["--compare", str(results), str(results), *options])
    written = folder / "results" / "comparisons" / f"{results.name}--{results.name}.csv"
    assert pd.read_csv(written)["difference"].tolist() == [0]
    with pytest.raises(UserError, match="evaluate that run first"):
        evaluate.main(["--compare", str(results), str(folder / "nowhere"), *options])


def test_the_audit_finds_every_promise_kept(simulated_cache, tmp_path, capsys):
    evaluate.main(["--audit", "--cache", str(simulated_cache.path), "--results-dir", str(tmp_path)])
    assert "Every promise is kept" in capsys.readouterr().out
    rows = pd.read_csv(next(tmp_path.glob("audit-*.csv")))
    assert not (rows["kept"].astype(str) == "False").any()


def test_the_audit_ends_with_status_one_when_a_session_is_shared(simulated_cache, tmp_path, monkeypatch):
    from datasets.splits import make_folds

    def leaky(samples, protocol, *arguments):
        return make_folds(samples, "recording" if protocol == "session" else protocol, *arguments)

    monkeypatch.setattr("systems.ecg_pcg.audit.make_folds", leaky)
    with pytest.raises(SystemExit) as left:
        evaluate.main(["--audit", "--cache", str(simulated_cache.path), "--results-dir", str(tmp_path)])
    assert left.value.code == 1


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    """Return a cache of eight people with one recording each, three of them abnormal."""
    root = tmp_path_factory.mktemp("pilot")
    rng, rows = np.random.default_rng(0), ["recording,person,label"]
    beat = 2 * np.exp(-(((np.arange(8000) / 1000) % 0.9 - 0.4) ** 2) / 0.0002)
    for k in range(8):
        signals = np.stack([beat, rng.normal(0, 0.1, 8000)], axis=1) + rng.normal(0, 0.01, (8000, 2))
        wfdb.wrsamp(f"r{k}", 1000, ["mV", "NU"], ["ECG", "PCG"], signals, fmt=["16"] * 2, write_dir=str(root))
        rows.append(f"r{k},p{k},{int(k < 3)}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    options = ["--onsets", "ecg", "--jobs", "1"]  # the heart sound is noise
    return load_data.main(["--raw-dir", str(root), "--cache-dir", str(root / "cache"), *options])


@pytest.mark.filterwarnings("error::UserWarning:sklearn")
@pytest.mark.parametrize(
    ("model", "options"),
    [("linear", []), ("phase-fusion", []), ("pacfnet", ["--epochs", "1", "--width", "8", "--points", "250"])],
)
def test_a_class_smaller_than_the_folds_is_said_in_a_sentence(pilot, tmp_path, capsys, model, options):
    train(pilot, tmp_path, "--model", model, "--fold-count", "5", *options)
    said = capsys.readouterr().out
    assert "which has no AUROC, as there are 5 of label 0, 3 of label 1 (sessions)" in said
    notes = said.count("too few sessions for inner folds")
    assert notes == (0 if model == "pacfnet" else 5)
    with pytest.raises(UserError, match="cannot make 6 folds: there are 5 of label 0, 3 of label 1"):
        train(pilot, tmp_path / "six", "--model", model, "--fold-count", "6", *options)
