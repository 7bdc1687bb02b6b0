"""Heart-state onsets from .mat files: the published nesting, and everything that must be refused."""

import numpy as np
import pytest
import scipy.io

from datasets.beats import HeartStates, complete_cycles, read_heart_states
from datasets.sources import DataError


def nested(value, depth):
    """Wrap a value in object arrays of shape (1, 1), as MATLAB cells within cells are read."""
    for _ in range(depth):
        wrapped = np.empty((1, 1), dtype=object)
        wrapped[0, 0] = value
        value = wrapped
    return value


def write_mat(path, rows, depths=(0, 0), variable="state_ans"):
    cells = np.empty((len(rows), 2), dtype=object)
    for number, (sample, name) in enumerate(rows):
        cells[number, 0], cells[number, 1] = nested(sample, depths[0]), nested(name, depths[1])
    scipy.io.savemat(path, {variable: cells})
    return path


GOOD = [(1, "S1"), (201, "systole"), (401, "S2"), (601, "diastole"), (1601, "S1")]


@pytest.mark.parametrize("depths", [(0, 0), (0, 1), (1, 2), (3, 0)])
@pytest.mark.parametrize("variable", ["state_ans", "state_ans0", "anything"])
def test_onsets_count_from_one_at_whatever_depth_they_lie(tmp_path, depths, variable):
    path = write_mat(tmp_path / "a.mat", GOOD, depths, variable)
    states = read_heart_states(path, 2000.0)
    np.testing.assert_allclose(states.time, [0, 0.1, 0.2, 0.3, 0.8])
    assert list(states.state) == ["S1", "systole", "S2", "diastole", "S1"]


def test_depth_may_vary_within_a_file_and_the_rate_is_the_one_given(tmp_path):
    cells = np.empty((3, 2), dtype=object)
    cells[0] = [np.array([[11]], dtype=np.int32), nested("S1", 1)]
    cells[1] = [nested(21, 2), "(N"]
    cells[2] = [31.0, nested(" N) ", 3)]
    scipy.io.savemat(tmp_path / "a.mat", {"state_ans": cells})
    states = read_heart_states(tmp_path / "a.mat", 100.0)
    np.testing.assert_allclose(states.time, [0.1, 0.2, 0.3])
    assert list(states.state) == ["S1", "(N", "N)"]


def test_simulated_files_read_as_the_first_state_at_zero(simulated_raw):
    folder = simulated_raw / "annotations" / "hand_corrected" / "training-a_StateAns"
    states = read_heart_states(folder / "a0001_StateAns.mat", 2000.0)
    assert states.time[0] == 0
    assert set(states.state) == {"S1", "systole", "S2", "diastole"}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([(1, "S1"), (0, "systole")], "a.mat holds a negative or missing onset"),
        ([(-5, "S1")], "a.mat holds a negative or missing onset"),
        ([(float("nan"), "S1")], "a.mat holds a negative or missing onset"),
        ([(float("inf"), "S1")], "a.mat holds a negative or missing onset"),
        ([(np.zeros((0, 0)), "S1")], "a.mat holds a negative or missing onset"),
        ([(np.array([1, 2]), "S1")], "a.mat holds a negative or missing onset"),
        ([("early", "S1")], "a.mat holds an onset that is not a number"),
        ([(5, "S1"), (4, "systole")], "a.mat holds onsets that are not in order"),
        ([(1, "S1"), (2, "s3"), (3, "murmur")], "heart states that are not known: murmur, s3"),
    ],
)
def test_faulty_onsets_are_refused_in_one_sentence(tmp_path, rows, sentence):
    with pytest.raises(DataError, match=sentence):
        read_heart_states(write_mat(tmp_path / "a.mat", rows), 2000.0)


def test_files_without_a_table_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone\.mat does not exist"):
        read_heart_states(tmp_path / "gone.mat", 2000.0)
    (tmp_path / "text.mat").write_text("no matrix")
    with pytest.raises(DataError, match=r"text\.mat cannot be read"):
        read_heart_states(tmp_path / "text.mat", 2000.0)
    scipy.io.savemat(tmp_path / "other.mat", {"signal": np.zeros((4, 3))})
    with pytest.raises(DataError, match="no table of two columns"):
        read_heart_states(tmp_path / "other.mat", 2000.0)


def test_a_truncated_file_is_refused(tmp_path):
    path = write_mat(tmp_path / "a.mat", GOOD)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"a\.mat"):
        read_heart_states(path, 2000.0)


def test_cycles_run_from_s1_to_s1_and_never_across_noise():
    names = ["diastole", "S1", "systole", "S2", "diastole", "S1", "systole", "(N", "N)", "S1", "(N"]
    names += ["N)", "S1", "systole", "S2", "diastole", "S1", "systole"]
    states = HeartStates(np.arange(len(names), dtype=float), np.array(names))
    assert list(complete_cycles(states)) == [(1, 5), (12, 16)]


@pytest.mark.parametrize("names", [["systole", "S2"], ["S1"], ["S1", "systole", "S2", "diastole"]])
def test_without_a_second_s1_there_is_no_cycle(names):
    states = HeartStates(np.arange(len(names), dtype=float), np.array(names))
    assert list(complete_cycles(states)) == []


# Tables of spans ------------------------------------------------------------------------------------------

SPANS = (
    "0\t0.4\t0\n0.4\t0.5\t1\n0.5\t0.7\t2\n0.7\t0.8\t3\n0.8\t1.2\t4\n1.2\t1.3\t1\n1.3\t1.5\t2\n1.5\t1.6\t3\n"
)


def test_spans_of_circor_become_onsets(tmp_path):
    (tmp_path / "a.tsv").write_text(SPANS + "1.6\t2.0\t4\n2.0\t2.1\t1\n2.1\t9\t0\n")
    states = read_heart_states(tmp_path / "a.tsv", 4000.0)
    names = [
        "(N",
        "N)",
        "S1",
        "systole",
        "S2",
        "diastole",
        "S1",
        "systole",
        "S2",
        "diastole",
        "S1",
        "(N",
        "N)",
    ]
    assert states.state.tolist() == names
    assert states.time.tolist() == [0, 0.4, 0.4, 0.5, 0.7, 0.8, 1.2, 1.3, 1.5, 1.6, 2.0, 2.1, 9]
    assert states.time[np.array(list(complete_cycles(states)))].tolist() == [[0.4, 1.2], [1.2, 2.0]]


def test_time_that_no_span_covers_is_part_of_no_beat(tmp_path):
    (tmp_path / "a.tsv").write_text(SPANS + "2.6\t3.0\t4\n3.0\t3.1\t1\n")
    states = read_heart_states(tmp_path / "a.tsv", 4000.0)
    assert states.time[np.array(list(complete_cycles(states)))].tolist() == [[0.4, 1.2]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0\t1\t7\n", "not known: 0 to 4 are"),
        ("1\t2\t1\n0\t1\t2\n", "negative or not in order"),
        ("1\t0.5\t1\n", "negative or not in order"),
        ("start\tend\tstate\n", "cannot be read"),
        ("0\t1\n", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path, text, said):
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(DataError, match=said):
        read_heart_states(tmp_path / "a.tsv", 4000.0)
