"""Files appear whole or not at all, and arrays written in pieces are what numpy would have written."""

import json
from typing import Any

import numpy as np
import pytest

from common.files import BYTES, FLOATS, NpyWriter, replacing, replacing_folder, write_json, write_text


class InterruptedWriteError(Exception):
    pass


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_keeps_its_old_content_until_the_block_ends(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == ".csv"
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert names(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("error", [InterruptedWriteError, KeyboardInterrupt])
def test_an_interrupted_file_leaves_the_old_one_and_nothing_else(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_folders_above_a_file_are_made(tmp_path):
    write_text(tmp_path / "one" / "two" / "note.txt", "µV\n")
    assert (tmp_path / "one" / "two" / "note.txt").read_bytes() == "µV\n".encode()


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "cache"
    with replacing_folder(path) as temporary:
        (temporary / "a").write_text("a")
        assert not path.exists()
    assert names(path) == ["a"]
    assert names(tmp_path / "deep") == ["cache"]


@pytest.mark.parametrize("error", [InterruptedWriteError, KeyboardInterrupt])
def test_an_interrupted_folder_leaves_nothing(tmp_path, error):
    with pytest.raises(error), replacing_folder(tmp_path / "cache") as temporary:
        (temporary / "a").write_text("a")
        raise error
    assert names(tmp_path) == []


def test_the_folder_of_a_faster_process_stays(tmp_path):
    path = tmp_path / "cache"
    with replacing_folder(path) as temporary:
        (temporary / "a").write_text("slow")
        path.mkdir()
        (path / "a").write_text("fast")
    assert (path / "a").read_text() == "fast"
    assert names(tmp_path) == ["cache"]


def test_json_reads_back_and_refuses_nan_without_touching_the_old_file(tmp_path):
    path = tmp_path / "metadata.json"
    content = {"name": "Müller", "values": [1, 2.5, None]}
    write_json(path, content)
    assert json.loads(path.read_text(encoding="utf-8")) == content
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == content
    assert names(tmp_path) == ["metadata.json"]


@pytest.mark.parametrize("row_shape", [(), (3,), (2, 5)])
@pytest.mark.parametrize("kind", [FLOATS, BYTES])
def test_an_array_written_in_pieces_is_the_file_numpy_writes(tmp_path, row_shape, kind):
    whole = (99 * np.random.default_rng(0).random(size=(12, *row_shape))).astype(kind)
    writer = NpyWriter(tmp_path / "pieces.npy", row_shape, kind)
    for piece in (whole[:1], whole[1:1], whole[1:12]):
        writer.append(piece)
    writer.close()
    np.save(tmp_path / "whole.npy", whole)
    assert (tmp_path / "pieces.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("kind", [FLOATS, BYTES])
def test_zeros_keep_their_place_between_rows(tmp_path, kind):
    writer = NpyWriter(tmp_path / "beats.npy", (2,), kind)
    writer.append(np.array([[1, 2]], dtype=kind))
    writer.append_zeros(3)
    assert writer.rows == 4
    writer.append(np.array([[3, 4]], dtype=kind))
    writer.append_zeros(1)
    writer.close()
    expected = [[1, 2], [0, 0], [0, 0], [0, 0], [3, 4], [0, 0]]
    np.testing.assert_array_equal(np.load(tmp_path / "beats.npy", mmap_mode="r"), expected)


def test_any_memory_layout_and_precision_is_written_as_float32_rows(tmp_path):
    rows: Any = np.arange(12, dtype=np.float64).reshape(3, 4).T
    writer = NpyWriter(tmp_path / "a.npy", (3,))
    writer.append(rows)
    writer.close()
    loaded = np.load(tmp_path / "a.npy")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, rows)


@pytest.mark.parametrize("count", [0, 9, 10, 1_000_000])
def test_the_header_holds_any_number_of_rows(tmp_path, count):
    writer = NpyWriter(tmp_path / "a.npy")
    writer.append_zeros(count)
    writer.close()
    loaded = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert loaded.shape == (count,)
    assert not loaded.any()


def test_rows_of_another_shape_are_refused(tmp_path):
    writer = NpyWriter(tmp_path / "a.npy", (3,))
    with pytest.raises(ValueError, match=r"\(4,\) and type float32 do not fit a file of rows \(3,\)"):
        writer.append(np.zeros((2, 4), dtype=np.float32))
    writer.close()
    assert np.load(tmp_path / "a.npy").shape == (0, 3)


def test_numbers_that_bytes_cannot_hold_are_refused(tmp_path):
    writer = NpyWriter(tmp_path / "a.npy", (3,), BYTES)
    for kind in (np.float32, np.int64):
        with pytest.raises(ValueError, match="of type uint8"):
            writer.append(np.zeros((2, 3), dtype=kind))
    writer.append(np.ones((2, 3), dtype=bool))
    writer.close()
    assert np.load(tmp_path / "a.npy").tolist() == [[1, 1, 1], [1, 1, 1]]
