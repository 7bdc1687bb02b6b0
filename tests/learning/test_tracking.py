"""TensorBoard files: the tags that a user and the README count on, read back with TensorBoard itself."""

import json

import matplotlib.pyplot as plt
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

import training
from learning.tracking import Tracker

CURVES = {
    "train/loss",
    "train/accuracy",
    "train/auroc",
    "val/loss",
    "val/accuracy",
    "val/auroc",
    "val/sensitivity",
    "val/specificity",
    "learning_rate",
    "gradient_norm",
    "samples_per_second",
}
FIGURES = {"test/roc", "test/confusion", "test/attention"}


def read(folder) -> EventAccumulator:
    events = EventAccumulator(
        str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0, "histograms": 0}
    )
    return events.Reload()


def points(folder, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


@pytest.fixture(scope="module")
def run_folder(simulated_cache, tmp_path_factory):
    """Return the curves of a small run of two folds."""
    root = tmp_path_factory.mktemp("tracked")
    options = "--preset small --width 8 --points 100 --epochs 2 --protocol beat --folds 0 1 --threads 1"
    training.main(
        [
            *options.split(),
            *("--histograms", "--graph"),
            *("--cache", str(simulated_cache.path), "--precision", "float32", "--run-name", "tracked"),
            *("--checkpoint-dir", str(root / "ck"), "--log-dir", str(root / "runs")),
        ]
    )
    return root / "runs" / "tracked"


@pytest.mark.parametrize("fold", ["fold_0", "fold_1"])
def test_every_fold_has_the_same_curves(run_folder, fold):
    tags = set(read(run_folder / fold).Tags()["scalars"])
    assert tags >= CURVES
    assert all((run_folder / fold).iterdir())
    for tag in CURVES:
        assert [step for step, _ in points(run_folder / fold, tag)] == [1, 2], tag


def test_final_scores_and_figures(run_folder):
    events = read(run_folder / "fold_0")
    assert set(events.Tags()["images"]) >= FIGURES
    for tag in FIGURES:
        (image,) = events.Images(tag)
        assert image.encoded_image_string.startswith(b"\x89PNG")
        assert min(image.width, image.height) > 100
    assert {"test/auroc", "test/accuracy"} <= set(events.Tags()["scalars"])


def test_settings_as_text(run_folder):
    (event,) = read(run_folder / "fold_0").Tensors("settings/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert all(line.startswith("    ") for line in text.splitlines()), "indented, so shown as it is"
    stored = json.loads(text)
    assert (stored["protocol"], stored["model"]["width"], stored["optimization"]["epochs"]) == ("beat", 8, 2)


def test_hyperparameters_with_final_scores(run_folder):
    events = read(run_folder / "fold_0" / "hparams")
    assert "test/auroc" in events.Tags()["scalars"]
    data = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    for name in (b"model.width", b"protocol", b"optimization.learning_rate"):
        assert name in data


def test_histograms_of_weights_and_gradients_every_epoch_and_the_graph(run_folder):
    events = read(run_folder / "fold_0")
    name = "encoders.ecg.0.body.0.0.weight"
    for group in ("weights", "gradients"):
        drawn = events.Histograms(f"{group}/{name}")
        assert [event.step for event in drawn] == [1, 2]
        assert drawn[0].histogram_value.num == 8 * 7
    assert any("SpatialAttention" in node.name for node in events.Graph().node)


def test_values_and_steps(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.scalars({"val/auroc": 0.5, "val/loss": 1.0}, 1)
        tracker.scalars({"val/auroc": float("nan"), "val/loss": 0.25}, 2)
    assert points(tmp_path, "val/auroc") == [(1, 0.5)]
    assert points(tmp_path, "val/loss") == [(1, 1.0), (2, 0.25)]


def test_a_resumed_run_keeps_the_finished_epochs_and_drops_what_came_after(tmp_path, monkeypatch):
    """Killed after writing epoch 3 to the curves but before saving it: two epochs are finished."""
    # names of one second are ordered by process number and a counter, as text: 10 before 9
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(9))
    with Tracker(tmp_path) as tracker:
        for step, value in ((1, 0.1), (2, 0.2), (3, 99.0)):
            tracker.scalars({"val/loss": value}, step)
    with Tracker(tmp_path, finished_epochs=2) as tracker:
        tracker.scalars({"val/loss": 0.3}, 3)
    found = points(tmp_path, "val/loss")
    assert found == [(1, pytest.approx(0.1)), (2, pytest.approx(0.2)), (3, pytest.approx(0.3))]


def test_nothing_is_written_where_a_process_does_not_lead(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure = plt.figure()
    with Tracker(None) as tracker:
        tracker.scalars({"val/loss": 1.0}, 1)
        tracker.figure("test/roc", figure, 1)
        tracker.text("settings", {"seed": 1})
        tracker.hyperparameters({"seed": 1}, {"test/auroc": 0.5})
    plt.close(figure)
    assert list(tmp_path.iterdir()) == []


def test_hyperparameters_that_are_no_numbers_become_text(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.hyperparameters({"folds": [0, 1], "cache": None, "seed": 3}, {"test/auroc": 0.75})
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert points(folder, "test/auroc")[0][1] == 0.75
