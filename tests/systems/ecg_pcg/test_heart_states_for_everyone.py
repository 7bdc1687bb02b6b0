"""A cohort of heart sounds alone, without a mark in them: prepared, learned from, evaluated and predicted."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.io import wavfile

import evaluate
import load_data
import predict
import training
from datasets.cache import Cache
from learning.checkpoint import load_checkpoint
from systems.ecg_pcg.features.phase_grid import phase_grid
from systems.ecg_pcg.prepare import RecordingCache
from systems.ecg_pcg.segmentation import features
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources.physionet2016 import index_physionet2016
from systems.ecg_pcg.sources.simulated import HAND_CORRECTED_FOLDER

PLACES = ["--cache-dir", "cache", "--checkpoint-dir", "checkpoints"]
COUNT = 12
ONE = ["--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def sounds(simulated_raw, simulated_cache, tmp_path_factory):
    """Return a cohort of twelve simulated sounds of six persons, and one of noise; nothing else is known."""
    root = tmp_path_factory.mktemp("sounds")
    labels = simulated_cache.table("recordings").set_index("recording")["label"]
    chosen = [*labels.index[labels == 1][: COUNT // 2], *labels.index[labels == 0][: COUNT // 2]]
    rows = ["recording,person,label"]
    for number, name in enumerate(chosen):
        shutil.copy(simulated_raw / "training-a" / f"{name}.wav", root)
        rows.append(f"{name},P{number // 2},{labels[name]}")
    noise = np.random.default_rng(0).normal(0, 2000, 20_000).astype(np.int16)
    wavfile.write(root / "noise.wav", 2000, noise)
    (root / "labels.csv").write_text("\n".join([*rows, "noise,N,1"]) + "\n")
    return root


@pytest.fixture(scope="module")
def place(sounds, tmp_path_factory):
    """Return a folder in which the sounds were prepared, and what load_data.py said."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        load_data.main(["--raw-dir", str(sounds), "--cache-dir", "cache", "--jobs", "1"])
    return folder


@pytest.fixture
def cache(place, monkeypatch):
    """Return the cache of the sounds; tests run in the folder that holds it."""
    monkeypatch.chdir(place)
    (path,) = place.glob("cache/cohort-*")
    return Cache(path)


def test_their_heart_states_are_the_true_ones_and_their_certainty_is_kept(cache, simulated_cache):
    recordings = cache.table("recordings")
    assert len(recordings) == COUNT
    assert set(recordings["beat_source"]) == {"automatic"}
    assert (recordings["states_quality"] > 0.4).all()
    assert (recordings["states_agreement"] > 0.3).all()
    tables = simulated_cache.table("events"), cache.table("events")
    found = []
    for name in recordings["recording"]:
        true, own = (
            table[(table["recording"] == name) & (table["state"] == "S2")]["time"].to_numpy()
            for table in tables
        )
        found += (np.abs(true[1:-1, None] - own).min(axis=1) < 0.06).tolist()
    assert len(found) > 3 * COUNT
    assert np.mean(found) > 0.95
    samples = cache.table("samples")
    assert len(samples) == len(cache.beats("pcg"))
    assert np.abs(cache.beats("pcg")).max(axis=1).min() > 0
    assert not cache.beats("ecg").any()
    grid = phase_grid(cache, jobs=1, progress=False)
    assert grid.has_pcg.all()
    assert not grid.has_ecg.any()


def test_a_sound_that_is_too_uncertain_is_left_out_and_all_is_said(cache, sounds, capsys):
    skipped = cache.table("skipped")
    assert skipped["recording"].tolist() == ["noise"]
    assert skipped["reason"].item().startswith("No heart beat that repeats is found in the heart sound")
    load_data.main(["--raw-dir", str(sounds), "--cache-dir", "cache", "--jobs", "1"])
    said = capsys.readouterr().out
    assert "was there already" in said
    assert f"{COUNT} recordings have heart states found automatically: certainty 0." in said


@pytest.mark.parametrize(
    "options",
    [
        ["--model", "linear"],
        ["--model", "pcg-network", "--width", "8", "--points", "100", "--epochs", "1", *ONE[:2]],
    ],
    ids=lambda options: options[1],
)
def test_models_learn_from_them_and_predict_as_they_learned(cache, sounds, options):
    places = [*PLACES, "--log-dir", "runs", "--cache", str(cache.path), "--threads", "1"]
    small = ["--precision", "float32", "--preset", "small", "--folds", "0", "--fold-count", "3"]
    run = training.main([*options, *small, *places])
    content = load_checkpoint(run / "fold_0" / "best.pt")
    assert content["cache"]["beat_source"] == {"automatic": COUNT}
    metrics = evaluate.main(
        ["--checkpoint", str(run), *PLACES, "--bootstrap-draws", "0", "--results-dir", "results", *ONE]
    )
    assert metrics["counts"]["recordings"] > 1
    found = pd.read_csv(f"results/{run.name}/recordings.csv").set_index("recording")
    recordings = cache.table("recordings").set_index("recording").loc[found.index]
    name = recordings.index[recordings["duration"] >= 5][0]  # what predict.py takes
    (row,) = predict.main([str(sounds / f"{name}.wav"), "--checkpoint", str(run), "--threads", "1"])
    assert row["beat_source"] == "automatic segmentation"
    assert row["beats"] == recordings.loc[name, "beats"]
    expected = found.loc[name, "probability"]
    assert row["probability"] == pytest.approx(expected, abs=1e-5)


def test_annotated_recordings_have_the_cache_that_they_had(simulated_raw, tmp_path, monkeypatch):
    """Another segmentation is another cache only where it finds something."""
    raw = shutil.copytree(simulated_raw, tmp_path / "raw")

    def digest(onsets="hand-corrected"):
        settings = PreparationSettings(onsets=onsets)
        return RecordingCache(index_physionet2016(raw, ["a"], settings), settings).identified[0]

    names = ("hand-corrected", "automatic", "ecg")
    before = {onsets: digest(onsets) for onsets in names}
    assert len(set(before.values())) == 3
    weights = tmp_path / "weights.json"
    weights.write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(features, "WEIGHTS", weights)
        assert [digest(onsets) == before[onsets] for onsets in names] == [True, False, True]
        (raw / HAND_CORRECTED_FOLDER / "a0003_StateAns.mat").unlink()
        refitted = digest()
    assert digest() != refitted


def test_a_missing_annotation_of_a_published_set_is_made_good(simulated_raw, tmp_path):
    raw = shutil.copytree(simulated_raw, tmp_path / "raw")
    (raw / HAND_CORRECTED_FOLDER / "a0003_StateAns.mat").unlink()
    settings = PreparationSettings(beat_points=50)
    index = index_physionet2016(raw, ["a"], settings)
    few = dataclasses.replace(index, recordings=index.recordings.iloc[:4])
    cache = Cache(RecordingCache(few, settings).build(tmp_path, jobs=1, progress=False))
    assert cache.table("recordings")["beat_source"].tolist() == ["annotation"] * 2 + [
        "automatic",
        "annotation",
    ]
    assert cache.describe()["beat_source"] == {"annotation": 3, "automatic": 1}
    assert set(cache.table("events")["recording"]) == {"a0001", "a0002", "a0003", "a0004"}
