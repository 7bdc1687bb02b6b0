"""The study of databases left out, on hospitals whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from studies.databases import benchmark as study
from studies.databases.benchmark import ANNOTATED, AUTOMATIC, Sounds
from studies.databases.variants import CYCLE_SHAPE, Variant
from tests.systems.ecg_pcg.cycle_shape.test_cycle_shape_fit import hospitals


@pytest.fixture(scope="module")
def sounds():
    """Four hospitals; with automatic states every feature is a little louder in systole than it should be."""
    grids, labels, databases = hospitals(4, 0.12)
    grid = grids.numpy().reshape(-1, 3, 22, 34)
    shifted = grid.copy()
    shifted[:, :, 3:9] += 0.1
    names = [f"r{number}" for number in range(len(labels))]
    table = pd.DataFrame({"recording": names, "session": names, "database": databases, "label": labels})
    return Sounds({ANNOTATED: grid, AUTOMATIC: shifted}, table)


def test_features_of_the_declared_variant_are_those_of_the_model(sounds):
    found = CYCLE_SHAPE.features(sounds.grids[ANNOTATED])
    assert np.allclose(found, study._features(sounds)[ANNOTATED])


def test_references_worked_by_hand():
    grid = np.arange(24.0).reshape(1, 1, 6, 4)
    assert Variant((0,), "cycle", 4, 1.0).features(grid).tolist() == [[-10, -6, -2, 2, 6, 10]]
    assert Variant((0,), "silence", 4, 1.0).features(grid).tolist() == [[-14, -10, -6, -2, 2, 6]]
    assert Variant((0,), "level", 2, 1.0).features(grid)[0, :2].tolist() == [-11, -9]


def test_a_choice_reads_nothing_of_the_database_that_is_left_out(sounds, monkeypatch):
    """The score inside the others is the same with the labels of the left-out database exchanged."""
    monkeypatch.setattr(study, "VARIANTS", (CYCLE_SHAPE,))
    last = sounds.databases == "hospital-3"
    labels = np.where(last, 1 - sounds.labels, sounds.labels)
    changed = Sounds(sounds.grids, sounds.table.assign(label=labels))
    before, after = (study.score_variants(each).iloc[0] for each in (sounds, changed))
    assert after["AUROC hospital-3"] == pytest.approx(1 - before["AUROC hospital-3"])
    assert after["inside the others of hospital-3"] == before["inside the others of hospital-3"]
    assert after["inside the others of hospital-0"] != before["inside the others of hospital-0"]


def test_each_kind_of_states_is_calibrated_on_its_own(sounds):
    predictions = {states: study.predict_left_out(sounds, states) for states in sounds.grids}
    same = predictions[ANNOTATED]["log_odds"] - predictions[AUTOMATIC]["log_odds"]
    assert abs(same.mean()) < 0.25, "the shift of automatic states is calibrated away"
    raw = predictions[AUTOMATIC]["raw"] - predictions[ANNOTATED]["raw"]
    steep = np.polyfit(predictions[ANNOTATED]["raw"], predictions[ANNOTATED]["log_odds"], 1)[0]
    assert steep * raw.mean() > 0.3
    lines = study.calibration_lines(predictions)
    assert lines[f"pcg {ANNOTATED}"] == pytest.approx([0, 1])
    assert lines[f"pcg {AUTOMATIC}"][0] < -0.2


def test_the_table_has_a_row_a_database_and_their_mean(sounds):
    table = study.tabulate(study.predict_left_out(sounds, ANNOTATED), ANNOTATED, draws=20)
    single, last = table.iloc[:-1], table.iloc[-1]
    assert last["auroc"] == pytest.approx(single["auroc"].mean())
    assert last["slope"] == pytest.approx(single["slope"].median())
    assert last["low"] < last["auroc"] < last["high"]
    assert 0.4 < last["slope"] < 2.5
    assert study._measured(pd.concat([table.assign(states=AUTOMATIC)]))["databases"] == 4
