"""Filters of prepared signals: what they keep and what they take away, on sines and drifts."""

from typing import Any

import numpy as np
import pytest

from datasets.sources import DataError
from systems.ecg_multimodal.prepare import PatientCache
from systems.ecg_multimodal.settings import ModalitySettings
from systems.ecg_multimodal.sources.filters import filtered
from systems.ecg_multimodal.sources.folders import index_patient_folders

TIME = np.arange(1000) / 100
SLOW, MIDDLE, FAST = (np.sin(2 * np.pi * rate * TIME) for rate in (0.1, 8.0, 45.0))
INNER = slice(200, 800)
"""Away from the ends, at which every filter has too little to go by."""


def kept(signal: np.ndarray, **options: Any) -> np.ndarray:
    """Return the inner part of one filtered lead."""
    return filtered(signal[None].astype(np.float32), ModalitySettings(**options))[0, INNER]


def test_a_band_pass_keeps_what_is_between():
    found = kept(SLOW + MIDDLE + FAST, high_pass=0.5, low_pass=25.0)
    assert np.abs(found - MIDDLE[INNER]).max() < 0.1
    assert np.abs(kept(SLOW, high_pass=0.5)).max() < 0.05
    assert np.abs(kept(FAST, low_pass=25.0)).max() < 0.05
    assert np.abs(kept(SLOW, low_pass=25.0) - SLOW[INNER]).max() < 0.01


def test_without_filters_nothing_changes():
    signal = np.stack([SLOW + FAST, np.zeros(1000)]).astype(np.float32)
    assert np.array_equal(filtered(signal, ModalitySettings()), signal)


def test_the_baseline_goes_and_the_beats_stay():
    beats = np.zeros(1000)
    beats[50::90] = 1.0
    drift = 0.8 * np.sin(2 * np.pi * 0.15 * TIME)
    found = kept(beats + drift, baseline=True)
    assert np.abs(found - beats[INNER]).max() < 0.1
    assert not filtered(np.zeros((1, 1000), np.float32), ModalitySettings(baseline=True)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low_pass": 50.0}, "--low-pass 50 is not below half of the 100 Hz"),
        ({"high_pass": 60.0}, "--high-pass 60 is not below half"),
        ({"high_pass": 40.0, "low_pass": 20.0}, "leave nothing"),
    ],
)
def test_edges_that_cannot_be_are_refused(make_patients, options, message, tmp_path):
    index = index_patient_folders(make_patients(2))
    with pytest.raises(DataError, match=message):
        PatientCache(index, ModalitySettings(**options)).build(tmp_path, jobs=1, progress=False)
