"""The study of generalization: filters filter, means are means, variants run, looks are counted."""

import json

import numpy as np
import pandas as pd
import pytest

from studies.generalization.benchmark import SEEDS, parts
from studies.generalization.microphones import KNOTS, FilteredCache, through
from studies.generalization.tables import comparisons, figures, microphone_lines
from studies.generalization.variants import OUTER, Material, folds_of, inner_scores, shape_of, variants


def material(count=80):
    """Return recordings whose label is in one cell of systole, in sessions of four."""
    generator = np.random.default_rng(0)
    label = np.arange(count) // 2 % 2
    grid = generator.normal(size=(count, 3, 22, 34))
    grid[:, :, 4:8, 12:16] += 1.5 * label[:, None, None, None]
    metadata = pd.DataFrame(
        {
            "label": label,
            "session": np.arange(count) // 4 * np.ones(count, dtype=int),
            "diagnosis": np.where(label, "MVP", "Normal"),
            "fifth": np.arange(count) % 5,
        }
    )
    ecg = generator.normal(size=(count, 13))
    return Material(grid, ecg, generator.normal(size=(count, 3, 22, 24)), metadata)


def test_a_microphone_scales_a_tone_by_its_gain_and_is_the_same_all_session():
    rate, time = 2000.0, np.arange(20000) / 2000.0
    scale = {}
    for knot in KNOTS[1:-1]:
        tone = np.sin(2 * np.pi * round(knot) * time)
        heard = through(tone, rate, 6.0, "C1", seed=0)
        scale[knot] = 20 * np.log10(heard.std() / tone.std())
        assert np.abs(np.corrcoef(heard, tone)[0, 1]) > 0.999
        assert through(tone, rate, 12.0, "C1", seed=0).std() / tone.std() == pytest.approx(
            10 ** (scale[knot] / 10), rel=1e-3
        )
        assert through(tone, rate, 0.0, "C1", seed=0) == pytest.approx(tone, abs=1e-9)
        assert through(tone, rate, 6.0, "C2", seed=0).std() != pytest.approx(heard.std(), rel=1e-3)
    assert 2 < np.std(list(scale.values())) < 14


def test_every_variant_runs_and_what_is_scored_outside_is_among_them():
    made = material()
    found = variants(made)
    assert set(OUTER) <= set(found)
    train, test = folds_of(made, np.arange(80), seed=0)[0]
    slow = ("network", "trees", "grid C", "coloured 0.", "noise floors")
    for name, variant in found.items():
        if not any(word in name for word in slow):
            scores = variant(train, test)
            assert scores.shape == test.shape, name
            assert np.isfinite(scores).all(), name


def test_inner_scores_see_the_label_where_it_is_and_keep_sessions_apart():
    made = material()
    found = variants(made)
    assert inner_scores(made, found["PCG grid, systole only"])["auroc"] > 0.9
    assert inner_scores(made, found["ECG bands C 1"])["auroc"] < 0.7
    sessions = made.metadata["session"].to_numpy()
    for train, test in folds_of(made, np.arange(40, 80), seed=3):
        assert not set(sessions[train]) & set(sessions[test])
        assert min(train.min(), test.min()) >= 40
    assert shape_of(made.grid).mean(axis=2) == pytest.approx(0, abs=1e-12)


@pytest.fixture
def results(tmp_path):
    """Return a folder with two seeds of both models: the linear one guesses, phase fusion is right."""
    generator = np.random.default_rng(0)
    label = np.tile([0, 1], 40)
    metadata = {
        "recording": [f"r{row}" for row in range(80)],
        "session": [f"s{row // 8}" for row in range(80)],
        "person": "",
        "label": label,
        "fold": 0,
        "threshold": 0.5,
    }
    for model, strength in (("linear", 0.0), ("phase-fusion", 3.0)):
        for seed in (0, 1):
            folder = tmp_path / "runs" / f"{model}-session-seed{seed}"
            folder.mkdir(parents=True)
            odds = strength * (2 * label - 1) + generator.normal(size=80)
            table = pd.DataFrame(metadata | {"probability": 1 / (1 + np.exp(-odds))})
            table.to_csv(folder / "recordings.csv", index=False)
            rows = {"group": ["all", "within sessions"], "value": [0.5 + 0.1 * seed + strength / 10, 0.7]}
            pd.DataFrame(rows).to_csv(folder / "subgroups.csv", index=False)
            (folder / "metrics.json").write_text(json.dumps({}))
    return tmp_path


def test_figures_are_means_over_seeds_and_the_comparison_favours_who_is_right(results):
    table = figures(results).set_index("figure")
    row = table.loc["session AUROC per recording, both signals"]
    assert row["linear"] == pytest.approx(0.55)
    assert row["phase-fusion"] == pytest.approx(0.85)
    assert (row["linear_seeds"], row["phase-fusion_seeds"]) == (2, 2)
    compared = comparisons(results, draws=50).iloc[0]
    assert compared["difference"] > 0.3
    assert compared["first"] > compared["second"]
    assert compared["seeds_first"] == 2


def test_the_table_of_microphones_means_over_seeds_and_draws():
    rows = [
        {
            "kind": "microphone",
            "level": 6.0,
            "draw": draw,
            "run": f"{model}-session-seed{seed}",
            "auroc": value,
        }
        for model, base in (("linear", 0.8), ("phase-fusion", 0.9))
        for draw, seed, value in ((0, 0, base), (1, 0, base + 0.02), (0, 1, base + 0.01), (1, 1, base + 0.05))
    ]
    assert microphone_lines(pd.DataFrame(rows))[2] == "| microphone, 6 dB | 0.820 | 0.920 |"


def test_both_models_are_trained_with_all_seeds_on_the_same_folds(tmp_path):
    made = parts(tmp_path)
    assert len(made) == 2 * len(SEEDS) == len({part.name for part in made})
    options = {
        part.name.split("-session-seed")[0]: part.train[2:] for part in made if part.name.endswith("seed3")
    }
    assert options["linear"] == options["phase-fusion"]


def test_a_filtered_cache_holds_other_heart_sounds_and_the_same_ecg(simulated_cache):
    sessions = simulated_cache.table("recordings")["session"]
    with FilteredCache(simulated_cache, 6.0) as filtered:
        np.testing.assert_array_equal(filtered.waveforms("ecg"), simulated_cache.waveforms("ecg"))
        assert filtered.waveforms("pcg").shape == simulated_cache.waveforms("pcg").shape
        assert not np.allclose(filtered.waveforms("pcg"), simulated_cache.waveforms("pcg"), equal_nan=True)
        assert not np.allclose(filtered.beats("pcg"), simulated_cache.beats("pcg"))
        first = simulated_cache.table("recordings").iloc[0]
        heard = np.array(simulated_cache.waveforms("pcg")[: first["pcg_length"]])
        expected = through(heard, first["pcg_rate"], 6.0, sessions.iloc[0], 0)
        np.testing.assert_allclose(filtered.waveforms("pcg")[: len(heard)], expected, rtol=1e-5, atol=1e-6)
    with FilteredCache(simulated_cache, 0.0) as flat:
        np.testing.assert_allclose(flat.waveforms("pcg"), simulated_cache.waveforms("pcg"), atol=1e-5)
