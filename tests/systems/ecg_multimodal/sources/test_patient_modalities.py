"""Views of one patient: signals at another rate without aliases, safe on flat leads; pictures on demand."""

import dataclasses
import hashlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from datasets.ecg import LEADS, flat_leads, prepare_signal, read_ecg
from datasets.sources import DataError, Problem
from systems.ecg_multimodal.settings import ModalitySettings
from systems.ecg_multimodal.sources.ecg_image import draw_ecg, to_ink, write_picture
from systems.ecg_multimodal.sources.folders import index_patient_folders
from systems.ecg_multimodal.sources.modalities import PreparedPatient, prepare_patient
from systems.ecg_multimodal.sources.user_patients import open_patients, read_user_patient

SETTINGS = ModalitySettings()


def sine(frequency, rate, seconds=10.0, leads=1):
    return np.tile(np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate), (leads, 1))


# Signals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [100.0, 250.0, 257.0, 500.0, 1000.0, 50.0])
def test_a_slow_wave_is_the_same_at_any_rate(rate):
    ready = prepare_signal(sine(3, rate, 12), rate, 100.0, 10.0)
    assert (ready.shape, ready.dtype) == ((1, 1000), np.float32)
    np.testing.assert_allclose(ready[0, 30:], sine(3, 100.0)[0, 30:], atol=0.02)


@pytest.mark.parametrize("frequency", [70.0, 95.0, 130.0, 180.0])
def test_what_is_too_fast_vanishes_and_leaves_no_alias(frequency):
    ready = prepare_signal(sine(frequency, 500.0, 12), 500.0, 100.0, 10.0)
    assert np.abs(ready[0, 30:-1]).max() < 0.05
    assert np.abs(sine(frequency, 500.0)[:, ::5]).max() > 0.5  # as it would be if samples were picked


def test_gaps_are_filled_and_units_and_offsets_are_kept():
    signal = np.tile(np.linspace(2.0, 3.0, 1000), (2, 1))
    signal[0, 300:400] = np.nan
    signal[1, :10] = np.nan
    ready = prepare_signal(signal, 100.0, 100.0, 10.0)
    np.testing.assert_allclose(ready[0], np.linspace(2.0, 3.0, 1000), atol=1e-6)
    np.testing.assert_allclose(ready[1, :10], ready[1, 10])


def test_flat_and_empty_leads_become_zero_and_do_not_touch_the_others():
    signal = np.stack([sine(3, 500.0)[0], np.full(5000, 4.2), np.full(5000, np.nan), np.zeros(5000)])
    signal[1, 7] = np.nan
    assert flat_leads(signal).tolist() == [False, True, True, True]
    ready = prepare_signal(signal, 500.0, 100.0, 10.0)
    assert not ready[1:].any()
    np.testing.assert_array_equal(ready[0], prepare_signal(signal[:1], 500.0, 100.0, 10.0)[0])
    assert not prepare_signal(signal[1:], 500.0, 100.0, 10.0).any()


def test_long_signals_are_cut_and_short_ones_go_on_with_their_last_value():
    signal = np.arange(1500.0)[None]
    np.testing.assert_array_equal(prepare_signal(signal, 100.0, 100.0, 10.0)[0], np.arange(1000))
    short = prepare_signal(signal[:, :990], 100.0, 100.0, 10.0)[0]
    np.testing.assert_array_equal(short[:990], np.arange(990))
    assert set(short[990:]) == {989.0}
    assert prepare_signal(sine(3, 250.0, 9.904), 250.0, 100.0, 10.0).shape == (1, 1000)


def test_what_follows_the_end_does_not_ring_into_it():
    signal = sine(3, 500.0, 20)
    whole = prepare_signal(signal, 500.0, 100.0, 20.0)[0, :1000]
    np.testing.assert_allclose(prepare_signal(signal, 500.0, 100.0, 10.0)[0], whole, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "rate", "target", "seconds"),
    [
        ((5000,), 500, 100, 10),
        ((1, 0), 500, 100, 10),
        ((1, 50), 0, 100, 10),
        ((1, 50), 50, 0, 10),
        ((1, 9), 9, 9, 0),
    ],
)
def test_what_is_no_signal_is_refused(shape, rate, target, seconds):
    with pytest.raises(ValueError, match="cannot become"):
        prepare_signal(np.zeros(shape), rate, target, seconds)


# Records --------------------------------------------------------------------------------------------


def write_record(root, names, gain="1000.0(0)/mV", rate=500, counts=None):
    counts = np.arange(len(names))[None] * 100 + np.arange(2 * rate)[:, None] if counts is None else counts
    (root / "x.dat").write_bytes(counts.astype("<i2").tobytes())
    lines = [
        f"x {len(names)} {rate} {len(counts)}",
        *(f"x.dat 16 {gain} 16 0 0 0 0 {name}" for name in names),
    ]
    (root / "x.hea").write_text("\n".join(lines) + "\n")
    return root / "x.hea"


def test_leads_come_in_the_order_asked_for_whatever_the_file_has(tmp_path):
    ecg = read_ecg(write_record(tmp_path, ["V1", "AVR", "extra", "ii"]), tmp_path, ("II", "aVR", "V1"))
    np.testing.assert_allclose(ecg.samples[:, 0], [0.3, 0.1, 0.0], atol=1e-9)
    assert (ecg.samples.shape, ecg.sampling_rate, ecg.duration) == ((3, 1000), 500.0, 2.0)


@pytest.mark.parametrize(
    ("gain", "factor"), [("1000/mV", 1.0), ("1/uV", 1.0), ("1000000/V", 1.0), ("500/mV", 2.0)]
)
def test_every_unit_becomes_millivolts(tmp_path, gain, factor):
    ecg = read_ecg(write_record(tmp_path, ["I", "II"], gain), tmp_path, ("II",))
    np.testing.assert_allclose(ecg.samples[0, :3], np.array([0.1, 0.101, 0.102]) * factor, rtol=1e-6)


def test_the_lowest_code_is_a_missing_sample(tmp_path):
    counts = np.zeros((1000, 1))
    counts[5] = -32768
    ecg = read_ecg(write_record(tmp_path, ["II"], counts=counts), tmp_path, ("II",))
    assert np.flatnonzero(np.isnan(ecg.samples[0])).tolist() == [5]


def test_records_that_cannot_be_used_are_named(tmp_path):
    header = write_record(tmp_path, ["I", "V1"])
    with pytest.raises(DataError, match="x lacks II; it has I, V1"):
        read_ecg(header, tmp_path, ("I", "II"))
    with pytest.raises(DataError, match="not in V, mV or uV, but in mmhg"):
        read_ecg(write_record(tmp_path, ["II"], gain="100/mmHg"), tmp_path, ("II",))
    write_record(tmp_path, ["II"])
    (tmp_path / "x.dat").write_bytes(b"\x00" * 100)
    with pytest.raises(DataError, match=r"x.dat is cut short.* holds 100 bytes, and x.hea declares more"):
        read_ecg(header, tmp_path, ("II",))
    (tmp_path / "x.dat").unlink()
    with pytest.raises(DataError, match=r"x\.dat named by x\.hea is absent"):
        read_ecg(header, tmp_path, ("II",))


def test_a_record_that_is_damaged_inside_does_not_have_its_checksum(tmp_path):
    counts = np.arange(1000)[:, None]
    header = write_record(tmp_path, ["II"], counts=counts)
    stated = int(counts.sum()) % 2**16
    header.write_text(header.read_text().replace(" 16 0 0 0 0 ", f" 16 0 0 {stated} 0 "))
    assert read_ecg(header, tmp_path, ("II",)).samples[0, 999] == 0.999
    counts[500] += 1
    (tmp_path / "x.dat").write_bytes(counts.astype("<i2").tobytes())
    with pytest.raises(DataError, match="channel II of x do not have the checksum of their header"):
        read_ecg(header, tmp_path, ("II",))


# Patients -------------------------------------------------------------------------------------------


def prepare_row(root, row, settings=SETTINGS, leads=("II",), rate=250.0, drawn=False):
    return prepare_patient(row, root=root, settings=settings, leads=leads, signal_rate=rate, drawn=drawn)


def test_a_patient_of_a_folder_has_the_picture_and_the_signal_of_the_files(make_patients):
    root = make_patients()
    row = index_patient_folders(root).recordings.to_dict("records")[2]
    patient = prepare_row(root, row)
    assert isinstance(patient, PreparedPatient)
    assert patient.signal is not None
    assert patient.image is not None
    time = np.arange(1000) / 100
    spikes = 0.8 * np.exp(-(((time % 1) - 0.5) ** 2) / (2 * 0.02**2))  # patient 3
    np.testing.assert_allclose(patient.signal[0, :980], spikes[:980], atol=0.01)
    assert (patient.image.shape, patient.image.dtype) == ((64, 640), np.uint8)
    assert patient.row["ecg_rate"] == 250.0
    assert patient.row["duration"] == 9.904
    assert patient.row["image_sha256"] == hashlib.sha256((root / row["image"]).read_bytes()).hexdigest()
    assert patient.problems == []


def test_a_view_that_is_spoilt_meanwhile_is_named_and_the_other_used(make_patients):
    root = make_patients()
    row = index_patient_folders(root).recordings.to_dict("records")[0]
    (root / row["image"]).write_bytes(b"?")
    patient = prepare_row(root, row)
    assert patient.image is None
    assert patient.signal is not None
    assert ["used without image" in problem.what for problem in patient.problems] == [True]
    (root / "ecg_signals.csv").write_text("")
    patient = prepare_row(root, row)
    assert patient.signal is None
    assert len(patient.problems) == 2


def test_a_missing_picture_is_never_drawn_from_the_signal(make_patients):
    root = make_patients()
    row = index_patient_folders(root).recordings.to_dict("records")[0]
    patient = prepare_row(root, row | {"image": ""})
    assert (patient.image, patient.problems) == (None, [])


RECORD = {"recording": "17", "signal": "x.hea", "image": ""}


@pytest.fixture
def record(tmp_path):
    """Return a folder with a record of twelve leads; lead k has a sine of k + 1 tenths of a millivolt."""
    counts = (100 * np.arange(1, 13)[None] * sine(1.5, 500).T).round()
    write_record(tmp_path, LEADS, counts=counts)
    return tmp_path


def test_a_picture_is_drawn_from_lead_ii_at_full_rate(record):
    patient = prepare_row(record, RECORD, leads=LEADS, drawn=True)
    lead = (200 * sine(1.5, 500)[0]).round() / 1000
    np.testing.assert_array_equal(patient.image, to_ink(draw_ecg(lead, 500.0), 64, 640))
    assert patient.signal.shape == (12, 1000)
    assert patient.row["flat_leads"] == ""
    assert patient.row["image_sha256"] == ""


def test_a_sheet_has_room_for_four_rows(record):
    patient = prepare_row(record, RECORD, ModalitySettings(sheet=True), LEADS, drawn=True)
    assert patient.image.shape == (256, 640)
    assert (patient.image[:, 300] > 0).sum() > 8  # a trace in each of four rows


def test_chance_in_a_picture_depends_on_the_name_only(record):
    settings = ModalitySettings(rotation=3, shadow=0.3, noise=0.02, text="25 mm/s")
    first, again, other = (
        prepare_row(record, RECORD | {"recording": name}, settings, LEADS, drawn=True).image
        for name in ("17", "17", "18")
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first != prepare_row(record, RECORD, leads=LEADS, drawn=True).image).any()


def test_flat_leads_are_flagged_and_a_dead_record_has_no_digest(record):
    counts = np.zeros((5000, 12))
    counts[:, 3] = np.arange(5000) % 100
    write_record(record, LEADS, counts=counts)
    row = prepare_row(record, RECORD, leads=LEADS, drawn=True).row
    assert row["flat_leads"].split() == [lead for lead in LEADS if lead != "aVR"]
    assert len(row["signal_sha256"]) == 64
    write_record(record, LEADS, counts=np.zeros((5000, 12)))
    row = prepare_row(record, RECORD, leads=LEADS, drawn=True).row
    assert row["signal_sha256"] == ""


def test_the_digest_is_of_the_content_and_not_of_the_settings(record):
    digests = {
        prepare_row(record, RECORD, settings, LEADS, drawn=True).row["signal_sha256"]
        for settings in (SETTINGS, dataclasses.replace(SETTINGS, signal_rate=50.0, noise=0.1))
    }
    assert len(digests) == 1
    write_record(record, LEADS, counts=np.random.default_rng(0).normal(0, 99, (5000, 12)))
    assert prepare_row(record, RECORD, leads=LEADS, drawn=True).row["signal_sha256"] not in digests


@pytest.mark.parametrize(
    ("rate", "samples", "sentence"),
    [(500, 400, "lasts 0.80 s"), (10, 100, "10 Hz; 50 to 20000 are plausible")],
)
def test_a_record_too_short_or_too_slow_is_left_out_where_all_is_drawn_from_it(
    tmp_path, rate, samples, sentence
):
    write_record(tmp_path, LEADS, rate=rate, counts=np.random.default_rng(0).normal(0, 99, (samples, 12)))
    problem = prepare_row(tmp_path, RECORD, leads=LEADS, drawn=True)
    assert isinstance(problem, Problem)
    assert problem.where == "17"
    assert sentence in problem.what
    assert problem.left_out


def test_a_lead_ii_of_nothing_gives_no_picture(record):
    counts = np.random.default_rng(0).normal(0, 99, (5000, 12)).round()
    counts[:, 1] = -32768
    write_record(record, LEADS, counts=counts)
    patient = prepare_row(record, RECORD, leads=LEADS, drawn=True)
    assert patient.image is None
    assert patient.row["flat_leads"] == "II"
    assert not patient.signal[1].any()


def test_a_picture_of_another_size_keeps_its_aspect(make_patients):
    root = make_patients()
    row = index_patient_folders(root).recordings.to_dict("records")[0]
    wide = draw_ecg(np.sin(np.arange(2500) / 40), 250.0, height=500)
    write_picture(root / row["image"], wide)
    image = prepare_row(root, row).image
    columns = np.flatnonzero(image.any(axis=0))
    assert columns.max() - columns.min() == pytest.approx(320, abs=2)


# What is not what it is taken for -------------------------------------------------------------------


def said(patient):
    return " ".join(problem.what for problem in patient.problems)


@pytest.mark.parametrize("factor", [0.001, 1000])
def test_a_record_in_another_unit_is_left_out_and_a_row_of_a_table_used_without_signal(
    record, make_patients, factor
):
    counts = (100 * np.arange(1, 13)[None] * sine(1.5, 500).T).round()
    write_record(record, LEADS, counts=counts, gain=1000 / factor)
    problem = prepare_row(record, RECORD, leads=LEADS, drawn=True)
    assert isinstance(problem, Problem) and "not in millivolts, but seem to be" in problem.what
    root = make_patients()
    table = root / "ecg_signals.csv"
    first, *others = table.read_text().splitlines()
    name, *values = first.split(",")
    scaled = ",".join(f"{factor * float(value):.8g}" for value in values)
    table.write_text("\n".join([f"{name},{scaled}", *others]) + "\n")
    rows = index_patient_folders(root).recordings.to_dict("records")
    patient = prepare_row(root, rows[0])
    assert patient.signal is None and patient.image is not None
    assert "not in millivolts" in said(patient) and said(patient).endswith("It is used without signal.")
    assert prepare_row(root, rows[1]).problems == []


def test_gaps_are_refused_and_an_absent_or_flat_lead_is_named(record):
    counts = (100 * np.arange(1, 13)[None] * sine(1.5, 500).T).round()
    counts[:, 9], counts[:, 8] = 7, -32768
    write_record(record, LEADS, counts=counts)
    text = said(prepare_row(record, RECORD, leads=LEADS, drawn=True))
    assert "Signal: It lacks V3." in text and "Signal: No signal is in V4." in text
    counts[1000:2000, 2] = -32768
    write_record(record, LEADS, counts=counts)
    problem = prepare_row(record, RECORD, leads=LEADS, drawn=True)
    assert problem.what == "Of lead III of its signal 20% of the samples are missing."


def test_a_picture_with_a_light_trace_is_used_and_named(make_patients):
    root = make_patients()
    row = index_patient_folders(root).recordings.to_dict("records")[0]
    usual = prepare_row(root, row).image
    path = root / row["image"]
    ImageOps.invert(Image.open(path)).save(path)
    patient = prepare_row(root, row)
    assert np.corrcoef(patient.image.ravel(), usual.ravel())[0, 1] > 0.97
    assert "Image: It shows a light trace on a dark ground; it was inverted." in said(patient)
    found = read_user_patient(open_patients(root, 250.0), row["recording"], SETTINGS)
    assert found.warnings["image"] == ["It shows a light trace on a dark ground; it was inverted."]
