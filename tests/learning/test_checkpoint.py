"""Checkpoints: plain when read, whole when written, and what is foreign or damaged is refused unexecuted."""

import hashlib
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from learning.checkpoint import (
    CheckpointError,
    changed_data,
    changed_since,
    commit_of,
    file_digest,
    load_checkpoint,
    provenance,
    save_checkpoint,
)

CONTENT: dict[str, Any] = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3)},
    "progress": {"epoch": 3, "best_loss": float("inf"), "history": [{"val/loss": 0.5}]},
    "settings": {"folds": [0, 1], "cache": None},
}


class Attack:
    """Makes a folder when it is unpickled by whoever trusts it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_reads_what_was_written(tmp_path):
    path = tmp_path / "deeper" / "best.pt"
    save_checkpoint(path, CONTENT)
    content: Any = load_checkpoint(path)
    assert torch.equal(content.pop("model")["weight"], CONTENT["model"]["weight"])
    assert content == {"format": 2, "progress": CONTENT["progress"], "settings": CONTENT["settings"]}
    assert torch.load(path, weights_only=True)["progress"]["epoch"] == 3
    assert list(path.parent.iterdir()) == [path]


def test_absent_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint .*best.pt. Train one with training.py"):
        load_checkpoint(tmp_path / "best.pt")


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.95])
def test_truncated_file(tmp_path, kept):
    path = tmp_path / "best.pt"
    save_checkpoint(path, CONTENT | {"model": {"weight": torch.randn(100, 100)}})
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(CheckpointError, match=r"cannot be read \(.+\). Train that fold again.") as refusal:
        load_checkpoint(path)
    assert "\n" not in str(refusal.value)


def test_file_that_is_no_checkpoint(tmp_path):
    path = tmp_path / "best.pt"
    path.write_text("recording,label\na0001,1\n")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_foreign_pickle_is_refused_and_not_executed(tmp_path, write):
    path, marker = tmp_path / "best.pt", tmp_path / "attacked"
    content = {"format": 2, "model": Attack(marker)}
    if write == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"best.pt cannot be read"):
        load_checkpoint(path)
    assert not marker.exists()
    if write == "torch":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert marker.exists(), "the attack is real: a trusting reader falls for it"


@pytest.mark.parametrize(
    ("content", "found"),
    [({"format": 1}, "1"), ({"format": 3}, "3"), ({"model": {}}, "None"), ([1, 2], "None")],
)
def test_other_format(tmp_path, content, found):
    path = tmp_path / "best.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"has format {found}, and this version reads 2.*train again"):
        load_checkpoint(path)


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT)
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        save_checkpoint(path, {"model": CONTENT["model"], "bad": lambda: None})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_a_part(tmp_path, monkeypatch):
    """While the new file is being written, the old one is under its name."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, CONTENT)
    epochs = []
    save = torch.save

    def watched(content: object, target: Path) -> None:
        assert target != path
        save(content, target)
        epochs.append(load_checkpoint(path)["progress"]["epoch"])

    monkeypatch.setattr(torch, "save", watched)
    save_checkpoint(path, {"progress": {"epoch": 4}})
    assert epochs == [3]
    assert load_checkpoint(path)["progress"]["epoch"] == 4


def test_digest_is_the_sha256_of_the_file(tmp_path):
    path = tmp_path / "best.pt"
    path.write_bytes(b"heart")
    assert file_digest(path) == hashlib.sha256(b"heart").hexdigest()


def test_provenance_names_libraries_and_code():
    found = provenance()
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert set(found) >= {"python", "numpy", "scipy", "scikit-learn", "commit"}
    assert all(isinstance(value, str) and value for value in found.values())


@pytest.mark.parametrize("name", ["python", "torch", "numpy", "commit"])
def test_what_has_changed_since_is_said(monkeypatch, name):
    now = {"python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.0", "commit": "abc"}
    monkeypatch.setattr("learning.checkpoint.provenance", lambda: now)
    assert changed_since(now) == []
    (line,) = changed_since(now | {name: "other"})
    assert f"trained with {name} other, evaluated with {now[name]}" in line
    assert changed_since({"torch": "2.13.0"}) == []


def test_code_that_was_not_committed_is_said_even_if_the_commit_is_the_same(monkeypatch):
    monkeypatch.setattr("learning.checkpoint.provenance", lambda: {"commit": "abc-dirty"})
    (line,) = changed_since({"commit": "abc-dirty"})
    assert "code changed after commit abc; which changes is not stored" in line


DATA: dict[str, Any] = {
    "source": "cohort",
    "source_files": "d1",
    "settings": {"onsets": "ecg", "bandpass": False},
    "versions": {"scipy": "1.17", "wfdb": "4.3"},
    "tables": {"recordings.csv": "t1", "samples.csv": "t2"},
}


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({}, []),
        (
            {"settings": {"onsets": "hand-corrected", "bandpass": False}},
            ["with onsets hand-corrected, tr"],
        ),
        ({"versions": {"scipy": "1.18", "wfdb": "4.3"}}, ["prepared with scipy 1.18, trained on 1.17"]),
        (
            {"tables": {"samples.csv": "x"}},
            ["samples.csv of the prepared data is not"],
        ),
        (
            {"source_files": "d2", "tables": {"samples.csv": "x"}},
            ["evaluated on other raw files (of cohort)"],
        ),
    ],
)
def test_data_that_have_changed_since_are_said(changed, lines):
    found = changed_data(DATA, DATA | changed)
    assert len(found) == len(lines)
    assert all(line in said for line, said in zip(lines, found, strict=True))


def test_what_an_older_run_did_not_write_down_is_not_compared():
    assert changed_data({"source": "cohort", "settings": {"onsets": "ecg"}}, DATA) == []


def test_a_commit_is_that_of_the_code_and_written_results_do_not_change_it(tmp_path):
    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "models").mkdir()
    (tmp_path / "results").mkdir()
    code, table = tmp_path / "models/network.py", tmp_path / "results/table.csv"
    code.write_text("WIDTH = 1\n")
    table.write_text("auroc\n")
    assert commit_of(tmp_path) == "unknown"
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    commit = commit_of(tmp_path / "models")
    assert len(commit) == 12
    table.unlink()
    assert commit_of(tmp_path / "models") == commit
    code.write_text("WIDTH = 2\n")
    assert commit_of(tmp_path / "models") == f"{commit}-dirty"
