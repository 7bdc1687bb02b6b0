"""A cache made worse, and trained runs evaluated on it."""

import dataclasses
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch

import training
from common.errors import UserError
from config import EvaluationSettings
from datasets.beats import HeartStates
from datasets.cache import Cache
from datasets.signals import cut_beats, resample, standardize
from datasets.splits import ALL
from learning.checkpoint import load_checkpoint
from simulation import population
from simulation.settings import SimulationSettings
from studies.physionet2016 import corruptions as study
from systems.base.evaluation_run import EvaluationRun
from systems.ecg_pcg.features.phase_grid import phase_grid
from systems.ecg_pcg.features.spectral import ecg_band_powers, pcg_grid
from systems.ecg_pcg.prepare import RecordingCache
from systems.ecg_pcg.robustness import evaluate as stress
from systems.ecg_pcg.robustness.corruptions import Corruption, corrupt
from systems.ecg_pcg.robustness.evaluate import (
    CorruptedCache,
    predict_recordings,
    robustness_row,
    robustness_table,
)
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources.physionet2016 import index_physionet2016
from systems.ecg_pcg.sources.simulated import write_cohort

SETTINGS = EvaluationSettings(device="cpu", bootstrap_draws=50)
LOUD = Corruption("white", "pcg", -5.0)


def waveform(cache: Cache, modality: str, row: pd.Series) -> np.ndarray:
    start = row[f"{modality}_offset"]
    return np.array(cache.waveforms(modality)[start : start + row[f"{modality}_length"]])


# The cache -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nothing", "modality"),
    [
        (Corruption("rate", "both", 2000.0), "ecg"),
        (Corruption("rate", "both", 2000.0), "pcg"),
        (Corruption("shift", "ecg", 0.0), "ecg"),
    ],
)
def test_a_corruption_that_changes_nothing_gives_the_beats_of_the_cache(simulated_cache, nothing, modality):
    with CorruptedCache(simulated_cache, nothing) as stressed:
        beats = stressed.beats(modality)
        assert beats is not simulated_cache.beats(modality), "made anew"
        assert np.array_equal(beats, simulated_cache.beats(modality)), "bit for bit"
        assert np.array_equal(stressed.waveforms(modality), simulated_cache.waveforms(modality))
        pd.testing.assert_frame_equal(
            stressed.table("recordings"), simulated_cache.table("recordings"), check_dtype=False
        )


def test_gaps_are_filled_and_bands_passed_as_preparation_did(simulated_raw, tmp_path):
    settings = PreparationSettings(bandpass=True, beat_points=200)
    index = index_physionet2016(simulated_raw, ["a"], settings)
    path = RecordingCache(index, settings).build(tmp_path, jobs=1, progress=False)
    with CorruptedCache(Cache(path), Corruption("rate", "both", 2000.0)) as stressed:
        assert np.array_equal(stressed.beats("pcg"), Cache(path).beats("pcg"))


def test_beats_are_cut_from_the_corrupted_signal_at_the_clean_spans(simulated_cache):
    row = simulated_cache.table("recordings").iloc[3]
    samples = simulated_cache.table("samples")
    samples = samples[samples["recording"] == row["recording"]]
    lower = resample(waveform(simulated_cache, "ecg", row).astype(float), 2000.0, 250.0)
    expected = cut_beats(standardize(lower), 250.0, samples[["start", "end"]].to_numpy(), 2000)
    with CorruptedCache(simulated_cache, Corruption("rate", "ecg", 250.0)) as stressed:
        assert stressed.beats("ecg")[samples.index] == pytest.approx(expected, abs=1e-5)
        found = stressed.table("recordings").iloc[3]
        assert (found["ecg_rate"], found["ecg_length"]) == (250, len(lower))
        assert waveform(stressed, "ecg", found) == pytest.approx(lower, abs=1e-5)
        assert found["pcg_rate"] == 2000
        assert np.array_equal(stressed.beats("pcg"), simulated_cache.beats("pcg"))
    assert np.abs(expected - simulated_cache.beats("ecg")[samples.index]).max() > 0.01


def test_what_is_made_comes_from_the_seed_and_not_from_the_number_of_workers(simulated_cache):
    with (
        joblib.parallel_config(backend="threading"),  # processes would take seconds to start
        CorruptedCache(simulated_cache, LOUD) as one,
        CorruptedCache(simulated_cache, LOUD, jobs=2) as two,
    ):
        assert np.array_equal(one.beats("pcg"), two.beats("pcg"))
    with CorruptedCache(simulated_cache, LOUD, seed=1) as other:
        assert not np.array_equal(one.beats("pcg"), other.beats("pcg"))


def test_features_are_those_of_the_corrupted_signals_and_leave_the_cache_alone(simulated_cache):
    clean = phase_grid(simulated_cache, 1, progress=False)
    before = {path.name: path.stat().st_mtime_ns for path in simulated_cache.path.iterdir()}
    row = simulated_cache.table("recordings").iloc[0]
    events = simulated_cache.table("events").query("recording == @row.recording")
    states = HeartStates(events["time"].to_numpy(float), events["state"].to_numpy(str))
    both = Corruption("movement", "both", 0.0)
    with CorruptedCache(simulated_cache, both) as stressed:
        grid = phase_grid(stressed, 1, progress=False)
        folder = stressed.path
        assert folder.is_dir()
    for modality, features, expected in (
        ("pcg", grid.pcg, lambda signal: pcg_grid(signal, 2000.0, states)),
        ("ecg", grid.ecg, lambda signal: ecg_band_powers(signal, 2000.0)),
    ):
        worse, _ = corrupt(waveform(simulated_cache, modality, row), 2000.0, modality, both, row["recording"])
        assert features[0] == pytest.approx(expected(worse), abs=1e-5)
        assert np.abs(features[0] - getattr(clean, modality)[0]).max() > 0.1
    assert {path.name: path.stat().st_mtime_ns for path in simulated_cache.path.iterdir()} == before
    assert not folder.exists(), "what was derived is gone"


# Evaluation -------------------------------------------------------------------------------------------------


def train(cache: Cache, folder, *options: str):
    run = training.main(
        [
            *(
                "--model",
                "linear",
                "--cache",
                str(cache.path),
                "--checkpoint-dir",
                str(folder / "checkpoints"),
            ),
            *("--log-dir", str(folder / "runs"), "--device", "cpu", "--threads", "1", "--fold-count", "2"),
            *options,
        ]
    )
    return run, [load_checkpoint(path) for path in sorted(run.glob("fold_*/best.pt"))]


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """A cohort whose ECG knows nothing of the label, and a linear model trained on it."""
    folder = tmp_path_factory.mktemp("heard")
    made = SimulationSettings(sessions=16, persons=3, recordings=1, duration=8.0, fingerprint=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population, "STRAINED_SHARE", 0.0)
        raw = write_cohort(folder / "raw", made)
    index = index_physionet2016(raw, ["a"])
    path = RecordingCache(index, PreparationSettings()).build(folder, jobs=1, progress=False)
    run, checkpoints = train(Cache(path), folder)
    return Cache(path), run, checkpoints


def test_drowning_the_signal_that_carries_the_label_costs_auroc_and_drowning_the_other_does_not(heard):
    cache, _, checkpoints = heard
    chosen = [LOUD, Corruption("white", "ecg", -5.0)]
    table = robustness_table(checkpoints, cache, SETTINGS, chosen)
    clean, pcg, ecg = table["auroc"]
    assert clean > 0.85
    assert pcg < clean - 0.15
    assert ecg > clean - 0.05
    assert table["kind"].tolist() == ["clean", "white", "white"]
    assert table["signal"].tolist() == ["", "pcg", "ecg"]
    assert table["change"].tolist() == pytest.approx([0, pcg - clean, ecg - clean])
    assert table.loc[1, "change_high"] < table.loc[2, "change_low"] + 0.15
    pd.testing.assert_frame_equal(robustness_table(checkpoints, cache, SETTINGS, chosen[:1]), table[:2])


def test_every_recording_is_evaluated_once_by_the_fold_that_did_not_train_on_it(heard):
    cache, _, checkpoints = heard
    with CorruptedCache(cache, LOUD) as stressed:
        evaluated = predict_recordings(checkpoints, stressed, SETTINGS)
    assert sorted(evaluated["recording"]) == sorted(cache.table("recordings")["recording"])
    for checkpoint in checkpoints:
        tested = evaluated.loc[evaluated["fold"] == checkpoint["fold"], "recording"]
        assert len(tested)
        assert not set(tested) & set(checkpoint["trained_on"]["recording"])


def test_a_session_in_train_and_test_is_refused(heard):
    cache, _, checkpoints = heard
    leaky: Any = dict(checkpoints[0])
    leaky["parts"] = leaky["parts"].clone()
    sessions = cache.table("recordings")["session"]
    first = np.flatnonzero(sessions == sessions.iloc[0])
    leaky["parts"][torch.from_numpy(first)] = (
        checkpoints[0]["parts"].unique()[: len(first)].repeat(9)[: len(first)]
    )
    with pytest.raises(Exception, match="session"), CorruptedCache(cache, LOUD) as stressed:
        predict_recordings([leaky], stressed, SETTINGS)


def test_a_run_of_other_data_and_a_final_fit_are_refused(heard, simulated_cache):
    cache, _, checkpoints = heard
    with pytest.raises(UserError, match="was not trained from this cache"):
        robustness_table(checkpoints, simulated_cache, SETTINGS, [])
    with pytest.raises(UserError, match="has no test part"):
        robustness_table([checkpoints[0] | {"fold": ALL}], cache, SETTINGS, [])


def test_the_row_of_a_corruption_holds_the_change_from_clean():
    label = np.arange(40) % 2
    clean = pd.DataFrame({"recording": [f"a{row:02}" for row in range(40)], "label": label})
    clean = clean.assign(session=[f"C{row // 4}" for row in range(40)], probability=0.2 + 0.6 * label)
    reversed_ = clean.assign(probability=0.8 - 0.6 * label).sample(frac=1, random_state=0)
    row = robustness_row(LOUD, reversed_, clean, draws=50)
    assert (row["kind"], row["signal"], row["level"], row["unit"]) == ("white", "pcg", -5, "dB")
    assert (row["recordings"], row["sessions"]) == (40, 10)
    assert (row["auroc"], row["change"], row["change_low"], row["change_high"]) == (0, -1, -1, -1)
    assert robustness_row(None, clean, clean, draws=50)["change"] == 0


# The command ---------------------------------------------------------------------------------------------


class StoppedError(Exception):
    """Stands for a kill."""


@pytest.fixture
def stressed_run(heard, tmp_path, monkeypatch):
    """Return a run with made-up predictions, and the list of what it was evaluated on."""
    cache, run, _ = heard
    metadata = cache.table("recordings")[["recording", "session", "label"]]
    evaluated: list[object] = []

    def evaluate_run(checkpoints, cache, settings) -> pd.DataFrame:
        evaluated.append(getattr(cache, "corruption", "clean"))
        if len(evaluated) == stop_after[0]:
            raise StoppedError
        random = np.random.default_rng(hash(str(evaluated[-1])) % 2**32)
        return metadata.assign(probability=random.uniform(size=len(metadata)))

    stop_after = [0]
    monkeypatch.setattr(stress, "predict_recordings", evaluate_run)
    monkeypatch.setattr(CorruptedCache, "_changed", lambda *_: [])
    contents = [load_checkpoint(path) for path in sorted(run.glob("fold_*/best.pt"))]
    origin: dict[str, Any] = {"checkpoints": {"fold_0/best.pt": "abc"}}
    return EvaluationRun(contents, cache, SETTINGS, False, tmp_path, origin), evaluated, stop_after


def test_stress_writes_as_it_goes_and_goes_on_where_it_stopped(stressed_run, capsys):
    run, evaluated, stop_after = stressed_run
    whole = stress.evaluate(run)
    assert len(whole) == len(evaluated) == 83
    run.folder.joinpath(stress.TABLE).unlink()
    evaluated.clear()
    stop_after[0] = 12
    with pytest.raises(StoppedError):
        stress.evaluate(run)
    assert len(stress.read_rows(run.folder / stress.TABLE)) == 11
    assert stress.results(run) == ({}, {})
    assert "has 11 of 83 rows" in capsys.readouterr().out
    evaluated.clear()
    stop_after[0] = 0
    again = stress.evaluate(run)
    assert "11 rows of" in capsys.readouterr().out
    assert len(evaluated) == 1 + 83 - 11, "clean, to compare with, and what was still to do"
    pd.testing.assert_frame_equal(again, whole, rtol=1e-5, check_dtype=False)
    tables, figures = stress.results(run)
    assert len(tables["stress"]) == 83
    assert len(figures["stress"].axes) == 18


def test_stress_of_other_checkpoints_is_made_anew(stressed_run, capsys):
    run, evaluated, _ = stressed_run
    stress.evaluate(run)
    other = dataclasses.replace(run, metadata={"checkpoints": {"fold_0/best.pt": "other"}})
    assert stress.results(other) == ({}, {})
    assert "is of other checkpoints" in capsys.readouterr().out
    evaluated.clear()
    stress.evaluate(other)
    assert len(evaluated) == 83


# The study -----------------------------------------------------------------------------------------------


@pytest.fixture
def command(heard, tmp_path, monkeypatch):
    """Return what runs the study in a folder with made-up predictions, and the list of what was evaluated."""
    cache, run, _ = heard
    metadata = cache.table("recordings")[["recording", "session", "label"]]
    evaluated: list[object] = []

    def evaluate_run(checkpoints, cache, settings) -> pd.DataFrame:
        evaluated.append(getattr(cache, "corruption", "clean"))
        return metadata.assign(probability=np.random.default_rng(len(evaluated)).uniform(size=len(metadata)))

    monkeypatch.setattr(study, "predict_recordings", evaluate_run)

    def start(*options: str) -> pd.DataFrame:
        evaluated.clear()
        places = ("--checkpoint-dir", run.parent, "--cache", cache.path, "--results-dir", tmp_path)
        study.main([*map(str, places), "--threads", "1", "--bootstrap-draws", "50", *options])
        return pd.read_csv(tmp_path / "stress.csv")

    return start, evaluated, run.name


def test_the_study_writes_table_and_figure_and_evaluates_nothing_twice(command, tmp_path, capsys):
    start, evaluated, run = command
    with pytest.raises(FileNotFoundError):
        start()
    assert "name runs with --runs" in capsys.readouterr().out
    table = start("--runs", run, "--kinds", "clipping")
    assert len(table) == len(evaluated) == 10, "clean, and three levels on three signals"
    assert (tmp_path / "stress.png").stat().st_size > 10_000
    text = (tmp_path / "stress.md").read_text()
    assert "| clipping | heart sound |" in text
    assert f"{table['auroc'].iloc[0]:.3f}" in text
    again = start("--runs", run, "--kinds", "clipping")
    assert evaluated == []
    pd.testing.assert_frame_equal(again, table)
    more = start("--runs", run, "--kinds", "clipping", "shift")
    assert len(evaluated) == 1 + 6, "clean again, to compare with"
    assert len(more) == 16
    start("--runs", run, "--kinds", "clipping", "--seed", "1")
    assert len(evaluated) == 10, "made with another seed"


def test_seeds_of_a_model_are_shown_as_their_mean():
    rows = [
        {"run": f"linear-session-seed{seed}", "kind": kind, "signal": "pcg", "level": level, "unit": "dB"}
        | dict.fromkeys(study.SCORES, value - 0.001 * level)
        for seed, value in ((0, 0.8), (1, 0.6))
        for kind in ("white", "rub")
        for level in (20.0, 0.0)
    ]
    table = study.mean_over_seeds(pd.DataFrame(rows))
    assert table["kind"].tolist() == ["rub", "rub", "white", "white"], "in the order of the kinds"
    assert set(table["model"]) == {"linear"}
    assert table["auroc"].tolist() == pytest.approx([0.68, 0.7] * 2)
    assert set(table["seeds"]) == {2}
    assert study.model_of("pacfnet-dropout-beat-seed3") == "pacfnet-dropout, beat"
    assert study.model_of("mine") == "mine"


def test_settings_of_a_stressed_cache_are_those_of_the_clean_one(simulated_cache):
    with CorruptedCache(simulated_cache, LOUD) as stressed:
        assert stressed.identity == simulated_cache.identity
        assert stressed.simulated
        assert stressed.manifest["settings"] == dataclasses.asdict(PreparationSettings()) | {
            "ecg_band": [0.5, 100.0],
            "pcg_band": [25.0, 400.0],
        }
        assert isinstance(stressed, Cache)
    assert stress.CLEAN == "clean"
