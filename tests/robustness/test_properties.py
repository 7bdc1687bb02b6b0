"""Properties of any input: parsers return a value or raise a clear error; spans and splits are valid."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.beats import STATES, HeartStates, annotated_spans, complete_cycles, read_heart_states
from datasets.recordings import read_recording
from datasets.sources import DataError, plain_number
from datasets.splits import BEAT_PROTOCOLS, UNIT, assert_separated, make_folds
from datasets.wfdb_files import is_inside, signal_files
from systems.ecg_pcg.sources.cohort import index_cohort, read_labels
from systems.ecg_pcg.sources.physionet2016 import index_physionet2016

PROPERTY = settings(
    max_examples=150,
    deadline=2000,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXT = st.text(max_size=40)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def ends_in_a_value_or_a_clear_error(read):
    """Return what is read, or None; anything raised but DataError passes on."""
    try:
        return read()
    except DataError as error:
        assert str(error).strip()
        return None


# Headers --------------------------------------------------------------------------------------------

NUMBER = st.one_of(
    st.integers(-10, 10**12).map(str),
    st.floats(allow_nan=True).map(str),
    st.sampled_from(
        ["", "0", "16", "16x2", "16:5", "16+44", "212", "1000/mV", "1(9)/V", "9" * 60, "1e-300", "1e300"]
    ),
    st.text(alphabet="0123456789.+-xe:/()mV# ", max_size=8),
)
FILE = st.one_of(
    st.sampled_from(["r.dat", "r.wav", "../r.dat", "/etc/passwd", "~", "", "absent.dat", "C:\\x"]), TEXT
)
LINE = st.builds(
    lambda file, numbers, name: " ".join([file, *numbers, name]), FILE, st.lists(NUMBER, max_size=8), TEXT
)
HEADER = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda numbers, lines, end: end.join(["r " + " ".join(numbers), *lines]).encode("utf-8", "replace"),
        st.lists(NUMBER, max_size=5),
        st.lists(LINE, max_size=3),
        st.sampled_from(["\n", "\r\n", "\r"]),
    ),
)


@PROPERTY
@given(header=HEADER, samples=st.binary(max_size=400))
def test_any_header_is_read_or_refused(folder, header, samples):
    inside = folder / "headers"
    inside.mkdir(exist_ok=True)
    (inside / "r.hea").write_bytes(header)
    (inside / "r.dat").write_bytes(samples * 20)
    (inside / "r.wav").write_bytes(samples)
    files = ends_in_a_value_or_a_clear_error(lambda: signal_files(inside / "r.hea", inside))
    assert all(is_inside(file, inside) and file.is_file() for file in files or [])
    recording = ends_in_a_value_or_a_clear_error(lambda: read_recording(inside / "r.hea", inside))
    for signal in (recording.ecg, recording.pcg) if recording else ():
        if signal is not None:
            assert signal.sampling_rate > 0
            assert np.isfinite(signal.samples[~np.isnan(signal.samples)]).all()
            assert signal.duration >= 1


VALID = st.builds(
    lambda count, fmt, gain, baseline, name: (count, fmt, gain, baseline, name),
    st.integers(0, 5000),
    st.sampled_from(["16", "80", "212", "24", "32", "61", "160", "310", "311", "8"]),
    st.floats(1e-12, 1e12).map("{:g}".format),
    st.integers(-(10**6), 10**6),
    st.sampled_from(["ECG", "PCG", "ecg", "other"]),
)


@PROPERTY
@given(field=VALID, seed=st.integers(0, 99))
def test_headers_of_the_right_form_are_read_or_refused(folder, field, seed):
    count, fmt, gain, baseline, name = field
    inside = folder / "valid"
    inside.mkdir(exist_ok=True)
    (inside / "r.dat").write_bytes(np.random.default_rng(seed).bytes(8000))
    (inside / "r.hea").write_text(f"r 1 500 {count}\nr.dat {fmt} {gain}({baseline})/mV 16 0 0 0 0 {name}\n")
    recording = ends_in_a_value_or_a_clear_error(lambda: read_recording(inside / "r.hea", inside))
    if recording is not None:
        signal = recording.ecg or recording.pcg
        assert signal is not None
        assert len(signal.samples) == count >= 500


# Onsets ---------------------------------------------------------------------------------------------

CELL = st.one_of(
    st.integers(-5, 10**6),
    st.floats(),
    st.sampled_from([*STATES, "", "S3"]),
    st.text(max_size=5).filter(lambda text: "\x00" not in text),
    st.just(np.zeros((0, 0))),
    st.just(np.arange(3)),
    st.booleans(),
)


def matlab(rows) -> bytes:
    cells = np.empty((len(rows), 2), dtype=object)
    for number, (onset, state) in enumerate(rows):
        cells[number, 0], cells[number, 1] = onset, state
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"state_ans": cells})
    return buffer.getvalue()


def assert_onsets(states):
    if states is not None:
        assert len(states.time) == len(states.state)
        assert (np.diff(states.time) >= 0).all()
        assert (states.time >= 0).all()
        assert set(states.state) <= set(STATES)


@PROPERTY
@given(rows=st.lists(st.tuples(CELL, CELL), max_size=5))
def test_any_table_of_onsets_is_read_or_refused(folder, rows):
    path = folder / "any.mat"
    try:
        path.write_bytes(matlab(rows))
    except (ValueError, TypeError, UnicodeEncodeError):  # MATLAB knows no such value
        return
    assert_onsets(ends_in_a_value_or_a_clear_error(lambda: read_heart_states(path, 2000)))


GOOD_ONSETS = matlab([(1, "S1"), (300, "systole"), (700, "S2"), (900, "diastole"), (1800, "S1")])


@PROPERTY
@given(
    place=st.integers(0, len(GOOD_ONSETS) - 1),
    value=st.integers(0, 255),
    cut=st.integers(0, len(GOOD_ONSETS)),
)
def test_damaged_onsets_are_read_or_refused(folder, place, value, cut):
    content = bytearray(GOOD_ONSETS)
    content[place] = value
    path = folder / "damaged.mat"
    path.write_bytes(bytes(content[: max(cut, place)]))
    assert_onsets(ends_in_a_value_or_a_clear_error(lambda: read_heart_states(path, 2000)))


ONSETS = st.lists(st.tuples(st.floats(0, 60), st.sampled_from(STATES)), max_size=40)


@PROPERTY
@given(onsets=ONSETS, duration=st.floats(0, 60))
def test_spans_lie_within_the_recording_rise_and_do_not_overlap(onsets, duration):
    onsets = sorted(onsets, key=lambda pair: pair[0])
    time = np.array([time for time, _ in onsets])
    state = np.array([state for _, state in onsets], dtype="<U8")
    states = HeartStates(time, state)
    spans = annotated_spans(states, duration)
    assert spans.shape == (len(spans), 2)
    assert ((spans >= 0) & (spans <= duration)).all()
    assert (spans[:, 1] > spans[:, 0]).all()
    assert (spans[1:, 0] >= spans[:-1, 1]).all()
    for first, following in complete_cycles(states):
        within = state[first:following].tolist()
        assert within.count("S1") == 1
        assert len(set(within)) == len(within)
        assert not {"(N", "N)"} & set(within)


# Tables ---------------------------------------------------------------------------------------------

CELLS = st.one_of(
    st.sampled_from(
        ["recording", "label", "person", "session", "quality", "1", "-1", "0", "normal", "r1", "a/b"]
    ),
    TEXT,
)
TABLE = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda rows, comma, end, head, mark: (
            mark + head + end + end.join(comma.join(row) for row in rows)
        ).encode("utf-8", "replace"),
        st.lists(st.lists(CELLS, max_size=6), max_size=6),
        st.sampled_from([",", ";", "\t", '","']),
        st.sampled_from(["\n", "\r\n", "\r"]),
        st.sampled_from(
            ["recording,label,person", "recording;label;session", "", "label,recording,label", '"recording']
        ),
        st.sampled_from(["", "\ufeff"]),
    ),
)


@PROPERTY
@given(content=TABLE)
def test_any_table_of_labels_is_read_or_refused(folder, content):
    root = folder / "cohort"
    root.mkdir(exist_ok=True)
    (root / "labels.csv").write_bytes(content)
    table = ends_in_a_value_or_a_clear_error(lambda: read_labels(root / "labels.csv"))
    index = ends_in_a_value_or_a_clear_error(lambda: index_cohort(root))
    if table is not None and index is not None:
        listed = {problem.where for problem in index.problems}
        assert table.listed <= listed | set(index.recordings["recording"])
        assert set(table.rows) <= table.listed


@PROPERTY
@given(reference=TABLE, appendix=st.one_of(st.none(), TABLE))
def test_any_reference_table_is_read_or_refused(folder, reference, appendix):
    root = folder / "physionet"
    (root / "training-a").mkdir(exist_ok=True, parents=True)
    (root / "training-a" / "REFERENCE-SQI.csv").write_bytes(reference)
    (root / "annotations").mkdir(exist_ok=True)
    path = root / "annotations" / "Online_Appendix_training_set.csv"
    path.unlink(missing_ok=True)
    if appendix is not None:
        path.write_bytes(appendix)
    index = ends_in_a_value_or_a_clear_error(lambda: index_physionet2016(root, ["a"]))
    if index is not None:
        assert index.recordings["recording"].is_unique
        assert set(index.recordings["label"]) <= {0, 1}


@PROPERTY
@given(text=TEXT)
def test_a_label_in_another_spelling_stays_that_label(text):
    assert plain_number(plain_number(text)) == plain_number(text)


@pytest.mark.parametrize("label", ["-1", "0", "1"])
@pytest.mark.parametrize("spelling", ["{}", "{}.0", "{}.", "{}.000"])
def test_numbers_in_other_spellings(label, spelling):
    assert plain_number(spelling.format(label)) == label


# Splits ---------------------------------------------------------------------------------------------

COHORTS = st.builds(
    lambda sizes, seed: (sizes, seed),
    st.lists(st.integers(1, 4), min_size=6, max_size=25),
    st.integers(0, 10**6),
)


def samples_of(sizes, seed):
    """Return beats of sessions with so many recordings each; every third session is of one database."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"d{session % 3}", f"s{session}", f"r{session}.{number}", int(rng.integers(2)))
        for session, size in enumerate(sizes)
        for number in range(size)
    ]
    rows = [row for row in rows for _ in range(int(rng.integers(1, 4)))]
    table = pd.DataFrame(rows, columns=["database", "session", "recording", "label"])
    return table.assign(sample=np.arange(len(table)))


@PROPERTY
@given(
    cohort=COHORTS, protocol=st.sampled_from(BEAT_PROTOCOLS), count=st.integers(2, 5), share=st.floats(0, 0.4)
)
def test_parts_of_a_fold_never_share_what_the_protocol_keeps_apart(cohort, protocol, count, share):
    table = samples_of(*cohort)
    count = 0 if protocol == "database" else count
    folds = ends_in_a_value_or_a_clear_error(lambda: make_folds(table, protocol, count, share, cohort[1]))
    if folds is None:
        return
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested) == list(range(len(table))), "each sample is tested once"
    for fold in folds:
        assert_separated(fold, table, protocol)
        units = table[UNIT[protocol]].to_numpy()
        train, validation, test = (set(units[part]) for part in (fold.train, fold.validation, fold.test))
        assert not train & test
        assert not train & validation
        if protocol == "database":
            of = table["database"].to_numpy()
            assert not set(of[fold.test]) & {*of[fold.train], *of[fold.validation]}
        assert validation == test if protocol == "paper" else not validation & test
