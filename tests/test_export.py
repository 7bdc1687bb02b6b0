"""export.py from the command line: from recordings to a file, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import export
import training
from common.errors import UserError
from learning.checkpoint import file_digest, load_checkpoint, save_checkpoint
from learning.loop import predict
from systems.base import exporting
from systems.base.exporting import CHECKED_BATCHES, TOLERANCE, read_metadata
from systems.ecg_pcg.settings import ModelSettings, TrainingSettings
from systems.ecg_pcg.task import EcgPcg
from tests.exported_checkpoint import checkpoint

ROOT = Path(__file__).parents[1]


def call(*arguments: object) -> Path:
    return export.main([str(argument) for argument in (*arguments, "--threads", "1")])


def needs_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="ONNX needs it (requirements-cpu.txt)")


# A run, from recordings to file ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(simulated_cache, tmp_path_factory) -> Path:
    """Return a run of two folds, trained for one epoch on simulated recordings."""
    workspace = tmp_path_factory.mktemp("workspace")
    return training.main(
        [
            *("--preset", "small", "--width", "8", "--levels", "2", "--points", "100", "--epochs", "1"),
            *("--folds", "0", "1"),
            *("--precision", "float32", "--device", "cpu", "--threads", "1", "--run-name", "tiny"),
            *("--cache", str(simulated_cache.path), "--checkpoint-dir", str(workspace / "checkpoints")),
            *("--log-dir", str(workspace / "runs")),
        ]
    )


def test_the_example_of_the_documentation(run, simulated_cache, tmp_path, capsys, monkeypatch):
    """Its programs, as they are but for names: the probabilities are those of the run."""
    needs_onnx()
    monkeypatch.chdir(tmp_path)
    call("--checkpoint", run, "--fold", "1", "--out", "pacfnet.onnx")
    call("--checkpoint", run, "--fold", "1", "--out", "pacfnet.pt2")
    said = capsys.readouterr().out
    assert "pacfnet of run tiny, fold 1" in said
    assert "Largest difference from the network" in said and "not a medical device" in said

    recordings = simulated_cache.table("samples")["recording"]
    text = (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")
    for old, new in {
        "data/cache/<name>": simulated_cache.path.as_posix(),
        "a0007": recordings.iloc[0],
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    cpu = torch.device("cpu")
    settings = ModelSettings(width=8, levels=2, points=100)
    task = EcgPcg(TrainingSettings(precision="float32", model=settings))
    network, content = task.build(), load_checkpoint(run / "fold_1" / "best.pt")
    network.load_state_dict(content["model"])
    rows = torch.from_numpy(np.flatnonzero(recordings == recordings.iloc[0]))
    samples = task.samples(simulated_cache, cpu)
    requested = predict(task, network, samples, rows, batch_size=16, device=cpu)[1].numpy()
    names: dict[str, Any] = {}
    answers = []
    for program in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(program, names)
        answers += [names.pop(name) for name in ("logits", "probability") if name in names]
    assert len(answers) == 4, "by onnxruntime and by torch"
    for logits, probability in (answers[:2], answers[2:]):
        assert np.abs(np.asarray(probability) - requested).max() <= TOLERANCE
        assert logits.shape == (len(rows), 2)
    words = f"{len(rows)} beats, abnormal: {requested.mean():.2f}; threshold {content['threshold']:.2f}"
    assert words in capsys.readouterr().out


def test_a_file_knows_what_it_is(run, tmp_path):
    path = call("--checkpoint", run, "--fold", "0", "--out", tmp_path / "tiny.pt2")
    metadata, content = read_metadata(path), load_checkpoint(run / "fold_0" / "best.pt")
    for name, value in {
        "task": "ecg-pcg",
        "model": "pacfnet",
        "run": "tiny",
        "fold": "0",
        "protocol": "session",
        "points": "100",
        "classes": "normal, abnormal",
        "outputs": "logits, probability",
        "trained_on_simulated_data": "yes",
        "assumed_prevalence": "0.5",
        "checkpoint_sha256": file_digest(run / "fold_0" / "best.pt"),
    }.items():
        assert metadata[name] == value
    assert json.loads(metadata["threshold"]) == content["threshold"]
    assert json.loads(metadata["trained_with"]) == content["provenance"]
    assert json.loads(metadata["model_settings"])["width"] == 8
    assert set(json.loads(metadata["inputs"])) == {"ecg", "pcg"}
    assert "brought to 2000 points by a cubic spline, then to 100" in metadata["sampling_rate"]
    assert "no" in metadata["notice"] and "diagnosis" in metadata["notice"]


def test_the_final_fit_comes_before_folds(run, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(run, copy)
    with pytest.raises(UserError, match=r"holds fold_0, fold_1, each a network of its own: choose one with"):
        call("--checkpoint", copy, "--dry-run")
    shutil.copytree(copy / "fold_0", copy / "fold_all")
    assert call("--checkpoint", copy, "--dry-run") == copy / "fold_all" / "best.onnx"
    assert call("--checkpoint-dir", tmp_path, "--dry-run") == copy / "fold_all" / "best.onnx"
    assert call("--checkpoint", copy, "--fold", "1", "--dry-run") == copy / "fold_1" / "best.onnx"
    assert not list(copy.rglob("*.onnx"))


def test_a_perturbed_weight_is_found_and_no_file_left(tmp_path, monkeypatch):
    """The file is of one network, and asked beside another: one weight of many, changed a bit."""
    save_checkpoint(tmp_path / "best.pt", checkpoint(levels=2))
    made = exporting.open_exportable(tmp_path / "best.pt")
    weights = dict(made.network.named_parameters())
    honest = exporting.open_exported

    def perturb(path: Path):
        with torch.no_grad():
            weights["network.encoders.ecg.0.body.0.0.weight"][0, 0, 3] += 0.05
        return honest(path)

    monkeypatch.setattr(exporting, "open_exportable", lambda *_: made)
    monkeypatch.setattr(exporting, "open_exported", perturb)
    with pytest.raises(UserError, match="differs from the network by"):
        call("--checkpoint", tmp_path / "best.pt", "--format", "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


# What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fold", "7"], r"There is no trained fold_7 in .*tiny, only fold_0, fold_1"),
        (["--fold", "0", "--out", "a.pt2", "--format", "onnx"], r"--out a\.pt2 must end with \.onnx"),
        (
            ["--fold", "0", "--out", "a.bin"],
            r"--out a\.bin must end with \.onnx for --format onnx ",
        ),
        (["--checkpoint", "nowhere"], r"There is no best\.pt in nowhere"),
    ],
)
def test_commands_without_a_meaning_are_refused(run, arguments, said):
    with pytest.raises(UserError, match=said):
        call("--checkpoint", run, *arguments)


def test_an_unknown_format_ends_the_program(run, capsys):
    with pytest.raises(SystemExit) as left:
        call("--checkpoint", run, "--format", "tensorflow")
    assert left.value.code == 2
    assert "onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"task": "ecg-multimodal"},
            "task ecg-multimodal, whose networks cannot be exported yet: .*ecg-p",
        ),
        ({"settings": {"model": {"model": "linear"}}}, "linear reads features that only this code computes"),
        ({"settings": {"model": {"model": "phase-fusion"}}}, "phase-fusion reads features"),
        ({"model": {}}, "does not fit this version of the code"),
        ({"cache": {}}, "does not fit this version of the code"),
    ],
)
def test_checkpoints_that_cannot_be_exported_are_refused(tmp_path, changes, said):
    save_checkpoint(tmp_path / "best.pt", checkpoint() | changes)
    with pytest.raises(UserError, match=said):
        call("--checkpoint", tmp_path / "best.pt", "--format", "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_one_file_has_no_folds(tmp_path):
    save_checkpoint(tmp_path / "best.pt", checkpoint())
    with pytest.raises(UserError, match="--fold chooses in the folder of a run"):
        call("--checkpoint", tmp_path / "best.pt", "--fold", "0")


def test_several_sizes_of_batches_are_tried():
    assert min(CHECKED_BATCHES) == 1 and max(CHECKED_BATCHES) > 16
