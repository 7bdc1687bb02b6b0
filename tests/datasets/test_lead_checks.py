"""ECGs that are not what they are taken for: another unit, order or sign, mixed up, with gaps."""

import numpy as np
import pytest

from datasets.ecg import LEADS, Ecg, read_ecg
from datasets.lead_checks import check_ecg, without_gaps
from datasets.ptbxl import index_ptbxl
from datasets.sources import DataError
from simulation.heart_population import draw_heart
from simulation.patient import stream
from simulation.vectorcardiogram import render_ecg

RATE = 500.0
SSSD = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6", "III", "aVR", "aVL", "aVF")


@pytest.fixture(scope="module")
def hearts():
    """Return twelve leads of some simulated patients, millivolts."""
    drawn = [render_ecg(draw_heart(3, number), 10.0, RATE, stream(3, number)) for number in range(6)]
    return [np.asarray(samples, np.float64) for samples in drawn]


def codes(samples, leads=LEADS):
    return [warning.code for warning in check_ecg(Ecg(samples, RATE), leads)]


def test_a_right_ecg_raises_nothing_and_its_limb_leads_alone_neither(hearts):
    for samples in hearts:
        assert codes(samples) == []
        assert codes(samples[:6], LEADS[:6]) == []
        assert codes(samples[1:2], ("II",)) == []


@pytest.mark.parametrize(
    ("factor", "offset", "unit"),
    [
        (1e-3, 0.0, ", but seem to be volts"),
        (1e3, 0.0, ", but seem to be microvolts"),
        (1e3, 5e4, "microvolts"),
    ],
)
def test_another_unit_is_refused_by_the_size_of_the_beats(hearts, factor, offset, unit):
    for samples in hearts:
        drift = offset * np.sin(np.arange(5000) / 8000)
        with pytest.raises(DataError, match=f"not in millivolts.*{unit}"):
            codes(factor * samples + drift)
        with pytest.raises(DataError, match="not in millivolts"):
            codes(200 * 1.5 * samples[1:2], ("II",))


def test_one_lead_in_another_unit_is_named(hearts):
    samples = hearts[0].copy()
    samples[8] /= 1000
    (warning,) = check_ecg(Ecg(samples, RATE))
    assert (warning.code, warning.text[:7]) == ("unit", "Lead V3")


@pytest.mark.parametrize("order", [SSSD, (*LEADS[6:], *LEADS[:6]), ("II", "I", *LEADS[2:]), LEADS[::-1]])
def test_leads_in_another_order_are_named_with_the_order_that_fits(hearts, order):
    for samples in hearts:
        (warning,) = check_ecg(Ecg(samples[[LEADS.index(name) for name in order]], RATE))
        assert warning.code == "lead-order"
        limbs = [name if name in LEADS[:6] else "V" for name in order]
        found = warning.text.split("in the order ")[-1].strip(".").split(", ")
        assert [name if name in LEADS[:6] else "V" for name in found] == limbs


def test_augmented_leads_that_are_exchanged_are_named(hearts):
    samples = hearts[0][[0, 1, 2, 4, 3, *range(5, 12)]]
    assert codes(samples) == ["lead-order"]
    assert check_ecg(Ecg(samples, RATE))[0].text.startswith("Lead aVR is not what I, II and III make of it")


def test_an_ecg_upside_down_and_exchanged_arms_are_named(hearts):
    upside_down = [codes(-samples) for samples in hearts]
    assert upside_down.count(["polarity"]) >= 4
    turned = [np.concatenate([[-x[0], x[2], x[1], x[4], x[3]], x[5:]]) for x in hearts]
    assert [codes(samples) for samples in turned].count(["polarity"]) >= 3


def test_chest_leads_that_go_to_and_fro_are_named(hearts):
    for order in ([11, 7, 10, 9, 8, 6], [11, 10, 9, 8, 7, 6], [9, 10, 11, 6, 7, 8]):
        found = [codes(samples[[*range(6), *order]]) for samples in hearts]
        assert found.count(["chest-order"]) >= 4, order


def test_an_array_reshaped_instead_of_transposed_is_named(hearts):
    for samples in hearts:
        assert "lead-order" in codes(samples.T.reshape(12, -1))


def test_what_is_absent_is_named_and_no_gap_is_filled_that_is_large(hearts):
    samples = hearts[0].copy()
    samples[2], samples[7] = np.nan, 0.4
    samples[4, 1000:2000], samples[5, :100] = np.nan, np.nan
    kept, lost = without_gaps(Ecg(samples, RATE))
    assert lost.tolist() == [name == "aVL" for name in LEADS]
    assert np.isnan(kept.samples[4]).all() and np.isnan(kept.samples[5]).sum() == 100
    texts = [warning.text for warning in check_ecg(kept)]
    assert texts == ["It lacks III, aVL.", "No signal is in V2."]
    assert codes(np.full((12, 5000), np.nan)) == ["flat"]


# Real recordings ------------------------------------------------------------------------------------


def test_of_real_recordings_none_is_refused_and_hardly_one_doubted(ptbxl_dir):
    index = index_ptbxl(ptbxl_dir, 500)
    found = [read_ecg(ptbxl_dir / name, ptbxl_dir, LEADS) for name in index.recordings["signal"][:200]]
    doubted = [ecg for ecg in found if check_ecg(ecg)]
    assert len(doubted) <= 0.02 * len(found)
    for ecg in found[:40]:
        for factor in (1e-3, 1e3):
            with pytest.raises(DataError, match="not in millivolts"):
                check_ecg(Ecg(factor * ecg.samples, ecg.sampling_rate))
