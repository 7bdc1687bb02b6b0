"""EDF, BDF, DICOM and XML that other programs write: values, units, rates and names of channels."""

import base64
import struct
from pathlib import Path

import numpy as np
import pytest

from datasets.channel_files import read_channels
from datasets.ecg import LEADS, read_ecg
from datasets.recordings import read_recording
from datasets.sources import DataError
from systems.ecg_pcg.sources.cohort import find_channels

pyedflib = pytest.importorskip("pyedflib", reason="writes EDF (requirements-dev.txt)")
SECONDS = 4
SIGNALS = {
    "ECG II": ("uV", 500, 900 * np.sin(np.arange(500 * SECONDS) / 30)),
    "RESP": ("NU", 25, np.sin(np.arange(25 * SECONDS) / 9)),
    "PCG": ("NU", 2000, 0.5 * np.sin(np.arange(2000 * SECONDS) / 6)),
}


def write_edf(path: Path, signals=SIGNALS, kind: int | None = None) -> Path:
    """Write an EDF or BDF file with pyedflib (EDFlib); range -4000 to 4000 uV, -2 to 2 of others."""
    path.parent.mkdir(exist_ok=True)
    bdf = path.suffix == ".bdf"
    highest = 8388607 if bdf else 32767
    kind = kind if kind is not None else pyedflib.FILETYPE_BDFPLUS if bdf else pyedflib.FILETYPE_EDFPLUS
    with pyedflib.EdfWriter(str(path), len(signals), file_type=kind) as file:
        file.setSignalHeaders(
            [
                {
                    **{
                        "label": name,
                        "dimension": unit,
                        "sample_frequency": rate,
                        "transducer": "",
                        "prefilter": "",
                    },
                    **{"physical_min": -4000.0 if unit != "NU" else -2.0, "digital_min": -highest - 1},
                    **{"physical_max": 4000.0 if unit != "NU" else 2.0, "digital_max": highest},
                }
                for name, (unit, rate, _) in signals.items()
            ]
        )
        file.writeSamples([samples for *_, samples in signals.values()])
    return path


@pytest.mark.parametrize("name", ["a.edf", "a.bdf", "A.EDF"])
def test_channels_of_their_own_rates_and_units(tmp_path, name):
    kind = pyedflib.FILETYPE_EDFPLUS if name == "A.EDF" else None
    content = read_channels(write_edf(tmp_path / name, kind=kind))
    assert content.sig_name == list(SIGNALS)
    assert content.warnings == ()
    for channel, (unit, rate, samples) in zip(content.channels, SIGNALS.values(), strict=True):
        assert (channel.unit, channel.rate) == (unit, rate)
        assert channel.samples == pytest.approx(samples, abs=8000 / 2**16)


def test_ecg_and_heart_sound_of_an_edf_file(tmp_path):
    recording = read_recording(write_edf(tmp_path / "a.edf"), tmp_path, find_channels)
    assert recording.ecg is not None
    assert recording.pcg is not None
    assert recording.channels == {"ecg": "ECG II", "pcg": "PCG"}
    assert (recording.ecg.sampling_rate, recording.pcg.sampling_rate) == (500, 2000)
    assert recording.ecg.samples == pytest.approx(SIGNALS["ECG II"][2] / 1000, abs=2e-4)  # uV to mV
    assert recording.pcg.samples == pytest.approx(2 * SIGNALS["PCG"][2], abs=1e-3)  # of its largest value


@pytest.mark.parametrize("unit", ["uV", "mV", "µV"])
def test_twelve_leads_in_another_order_and_another_unit(tmp_path, unit):
    names = [f"ECG {lead}" for lead in LEADS[::-1]]
    rows = {name: ("uV", 250, 10.0 * (k + 1) * np.sin(np.arange(1000) / 9)) for k, name in enumerate(names)}
    file = write_edf(tmp_path / "a.edf", rows)
    file.write_bytes(file.read_bytes().replace(b"uV ", f"{unit} ".encode("latin-1")))
    ecg = read_ecg(file, tmp_path)
    scale = 1.0 if unit == "mV" else 1e-3
    expected = scale * np.stack([samples for *_, samples in rows.values()])[::-1]
    assert ecg.sampling_rate == 250
    assert ecg.samples == pytest.approx(expected, abs=0.13 * scale)


def test_an_edf_file_that_is_cut_or_has_gaps_or_no_scale(tmp_path):
    whole = write_edf(tmp_path / "a.edf").read_bytes()
    for said, content in (
        ("is cut short: 4 records are declared, and 2 are there", whole[: len(whole) * 2 // 3]),
        ("does not hold what it declares", whole + b"more"),
        ("has gaps in time", whole.replace(b"EDF+C", b"EDF+D")),
        ("does not hold what it declares: Physical minimum", whole.replace(b"-4000   ", b"4000    ")),
        ("cannot be read", whole[:300]),
        ("cannot be read", b"no EDF"),
        ("cannot be read", b""),
    ):
        (tmp_path / "b.edf").write_bytes(content)
        with pytest.raises(DataError, match=rf"b\.edf {said}"):
            read_channels(tmp_path / "b.edf")


def test_an_edf_file_whose_length_was_left_open(tmp_path):
    file = write_edf(tmp_path / "a.edf")
    content = bytearray(file.read_bytes())
    content[236:244] = b"-1      "  # number of records, as it is while recording
    file.write_bytes(content)
    read = read_channels(file)
    assert len(read.channels[0].samples) == 500 * SECONDS
    assert read.warnings == ("The length of a.edf was left open: all 4.0 s are read.",)


def test_a_channel_in_another_unit_is_no_ecg(tmp_path):
    file = write_edf(tmp_path / "a.edf", {"ECG": ("mmHg", 500, SIGNALS["ECG II"][2])})
    with pytest.raises(DataError, match=r"Channel ECG of a\.edf is in 'mmHg', not in V, mV or uV"):
        read_recording(file, tmp_path, find_channels)


# DICOM ----------------------------------------------------------------------------------------------------


@pytest.fixture
def dicom() -> Path:
    """Return an ECG that a cart wrote, which comes with pydicom."""
    from pydicom.data import get_testdata_file

    return Path(str(get_testdata_file("waveform_ecg.dcm")))


def test_twelve_leads_of_a_dicom_file(dicom):
    ecg = read_ecg(dicom, dicom.parent)
    stored = dicom.read_bytes()
    first = stored.index(struct.pack("<12h", 80, 90, 10, -85, 35, 50, *(0,) * 6)[:12])
    raw = np.frombuffer(stored, "<i2", 12 * 10_000, first).reshape(-1, 12).T
    assert (ecg.samples.shape, ecg.sampling_rate) == ((12, 10_000), 1000)
    assert ecg.samples == pytest.approx(raw * 1.25e-3)  # 1.25 uV a step, says the file
    assert np.abs(ecg.samples[1] - ecg.samples[0] - ecg.samples[2]).max() < 0.01  # II = I + III


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda group: group.ChannelDefinitionSequence[0].__setattr__("ChannelSampleSkew", "3"),
            "shifted in time",
        ),
        (lambda group: group.ChannelDefinitionSequence[0].__delattr__("ChannelSensitivity"), "is in ''"),
        (lambda group: group.__setattr__("WaveformData", group.WaveformData[:99]), "a.dcm is cut short"),
        (lambda group: group.__setattr__("WaveformOriginality", "DERIVED"), "holds no channel"),
    ],
)
def test_a_dicom_file_that_lacks_something_is_refused(dicom, tmp_path, change, said):
    import pydicom

    content = pydicom.dcmread(dicom)
    change(content.WaveformSequence[0])
    content.save_as(tmp_path / "a.dcm")
    with pytest.raises(DataError, match=said):
        read_ecg(tmp_path / "a.dcm", tmp_path)


def test_missing_samples_of_a_dicom_file(dicom, tmp_path):
    import pydicom

    content = pydicom.dcmread(dicom)
    content.WaveformSequence[0].add_new("WaveformPaddingValue", "OW", struct.pack("<h", 80))
    content.save_as(tmp_path / "a.dcm")
    ecg, whole = read_ecg(tmp_path / "a.dcm", tmp_path), read_ecg(dicom, dicom.parent)
    assert np.array_equal(np.isnan(ecg.samples), whole.samples == 0.1)


def test_a_dicom_file_of_another_kind(tmp_path):
    from pydicom.data import get_testdata_file

    with pytest.raises(
        DataError, match=r"CT_small.dcm holds no waveform: it is a DICOM file of another kind"
    ):
        read_channels(Path(str(get_testdata_file("CT_small.dcm"))))
    (tmp_path / "a.dcm").write_bytes(b"no DICOM")
    with pytest.raises(DataError, match=r"a\.dcm cannot be read"):
        read_channels(tmp_path / "a.dcm")


# XML ------------------------------------------------------------------------------------------------------

COUNTS = np.random.default_rng(0).integers(-1500, 1500, (12, 1000))
RHYTHM = '<code code="RHYTHM"/>'


def sequence(code: str, value: str) -> str:
    return f'<component><sequence><code code="{code}"/><value>{value}</value></sequence></component>'


def aecg(counts=COUNTS, step=("0.002", "s"), scale=("5", "uV"), origin=("0", "uV"), names=LEADS) -> str:
    """Return an ECG as ANSI/HL7 V3 ECG R1 and the guide of the FDA describe it."""
    time = f'<head value="20020122092350.000"/><increment value="{step[0]}" unit="{step[1]}"/>'
    parts = [sequence("TIME_ABSOLUTE", time)]
    for lead, row in zip(names, counts, strict=True):
        unit = "".join(
            f'<{tag} value="{a}" unit="{b}"/>' for tag, (a, b) in (("origin", origin), ("scale", scale))
        )
        parts.append(
            sequence(f"MDC_ECG_LEAD_{lead.upper()}", f"{unit}<digits>{' '.join(map(str, row))}</digits>")
        )
    whole = "".join(parts)
    for tag in ("sequenceSet", "component", "series", "component"):
        whole = f"<{tag}>{RHYTHM if tag == 'series' else ''}{whole}</{tag}>"
    return f'<?xml version="1.0"?><AnnotatedECG xmlns="urn:hl7-org:v3">{whole}</AnnotatedECG>'


def muse(counts, names=("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"), rate="500") -> str:
    """Return an ECG as carts of GE export it: eight leads in base 64, averaged beats before the rhythm."""
    leads = ""
    for name, row in zip(names, counts, strict=True):
        cells = {
            "LeadSampleCountTotal": len(row),
            "LeadAmplitudeUnitsPerBit": 4.88,
            "LeadAmplitudeUnits": "MICROVOLTS",
            "LeadID": name,
            "LeadSampleSize": 2,
            "WaveFormData": base64.b64encode(row.astype("<i2").tobytes()).decode(),
        }
        leads += "".join(
            ["<LeadData>", *(f"<{key}>{cell}</{key}>" for key, cell in cells.items()), "</LeadData>"]
        )
    kinds = ""
    for kind in ("Median", "Rhythm"):
        rates = f"<SampleBase>{rate}</SampleBase><SampleExponent>0</SampleExponent>"
        kinds += f"<Waveform><WaveformType>{kind}</WaveformType>{rates}{leads}</Waveform>"
    return f"<RestingECG><MuseInfo><MuseVersion>8</MuseVersion></MuseInfo>{kinds}</RestingECG>"


@pytest.mark.parametrize(
    ("options", "scale", "origin"),
    [
        ({}, 5e-3, 0),
        ({"step": ("2", "ms")}, 5e-3, 0),
        ({"scale": ("0.005", "mV"), "origin": ("0.1", "mV")}, 5e-3, 0.1),
        ({"origin": ("0.1", "mV")}, 5e-3, 0.1),
        ({"scale": ("2", "uV"), "names": LEADS[::-1], "counts": COUNTS[::-1]}, 2e-3, 0),
    ],
)
def test_an_annotated_ecg_of_hl7(tmp_path, options, scale, origin):
    (tmp_path / "a.xml").write_text(aecg(**options))
    ecg = read_ecg(tmp_path / "a.xml", tmp_path)
    assert (ecg.sampling_rate, ecg.warnings) == (500, ())
    assert ecg.samples == pytest.approx(COUNTS * scale + origin)


def test_a_muse_file_and_the_leads_that_it_leaves_out(tmp_path):
    (tmp_path / "a.xml").write_text(muse(COUNTS[:8]))
    ecg = read_ecg(tmp_path / "a.xml", tmp_path)
    stored = COUNTS * 4.88e-3
    one, two = stored[:2]
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    assert ecg.sampling_rate == 500
    assert ecg.samples == pytest.approx(np.stack([*limbs, *stored[2:8]]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (aecg(scale=("5", "")), "Channel I of a.xml is in '', not in V"),
        (aecg(step=("0", "s")), "a.xml cannot be read: No usable time increment"),
        (aecg(step=("2", "")), "a.xml cannot be read: .*increment unit"),
        (aecg([*COUNTS[:11], COUNTS[11, :900]]), "leads of a.xml differ in length"),
        (aecg()[:9000], "a.xml cannot be read: Malformed XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + aecg()[21:], "a.xml cannot be read"),
        ("<a><b/></a>", "neither an annotated ECG of HL7 .aECG. nor a MUSE file of GE"),
        ("", "a.xml cannot be read"),
    ],
)
def test_xml_that_lacks_something_is_refused(tmp_path, text, said):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match=said):
        read_ecg(tmp_path / "a.xml", tmp_path)


def test_a_rate_that_the_reader_rounds_is_named(tmp_path):
    (tmp_path / "a.xml").write_text(aecg(step=("0.0033", "s")))
    (warning,) = read_ecg(tmp_path / "a.xml", tmp_path).warnings
    assert warning == "a.xml: Sampling rate 303.0303 Hz is not an integer; rounded to 303 Hz."
