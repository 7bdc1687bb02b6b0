"""TensorBoard files: the tags that a user and the README count on, read back with TensorBoard itself."""

import csv
import json

import matplotlib.pyplot as plt
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from toy_learner import ToyLearner, build, toy_run

import training
from learning.checkpoint import load_checkpoint
from learning.loop import fit
from learning.tracking import LOG, Tracker

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


def rows(folder) -> list[dict[str, str]]:
    with (folder / LOG).open(newline="") as file:
        return list(csv.DictReader(file))


def points(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.fixture(scope="module")
def run_folder(simulated_cache, tmp_path_factory):
    """Return the curves of a small run of two folds."""
    root = tmp_path_factory.mktemp("tracked")
    options = "--preset small --width 8 --points 100 --epochs 2 --protocol beat --folds 0 1 --batch-size 8"
    training.main(
        [
            *options.split(),
            *("--histograms", "--graph", "--threads", "1"),
            *("--cache", str(simulated_cache.path), "--precision", "float32", "--run-name", "tracked"),
            *("--checkpoint-dir", str(root / "ck"), "--log-dir", str(root / "runs")),
        ]
    )
    return root / "runs" / "tracked"


@pytest.fixture(scope="module")
def curves(run_folder) -> dict[str, EventAccumulator]:
    """Return what TensorBoard reads of both folds: once, since it takes seconds."""
    return {fold: read(run_folder / fold) for fold in ("fold_0", "fold_1")}


@pytest.mark.parametrize("fold", ["fold_0", "fold_1"])
def test_every_fold_has_the_same_curves(run_folder, curves, fold):
    assert set(curves[fold].Tags()["scalars"]) >= CURVES
    assert all((run_folder / fold).iterdir())
    for tag in CURVES:
        assert [step for step, _ in points(curves[fold], tag)] == [1, 2], tag


def test_final_scores_and_figures(curves):
    events = curves["fold_0"]
    assert set(events.Tags()["images"]) >= FIGURES
    for tag in FIGURES:
        (image,) = events.Images(tag)
        assert image.encoded_image_string.startswith(b"\x89PNG")
        assert min(image.width, image.height) > 100
    assert {"test/beat/auroc", "test/beat/accuracy", "test/recording/auroc"} <= set(events.Tags()["scalars"])


def test_one_tag_has_one_unit(curves):
    tags = curves["fold_0"].Tags()["scalars"]
    scores = [tag.split("/")[1:] for tag in tags if tag.startswith("test/")]
    assert {unit for unit, _ in scores} == {"beat", "recording"}


def test_every_step_has_a_loss_and_the_one_cycle_is_seen(curves):
    """Warm-up from 1/25 of the peak, then down to next to nothing."""
    found = {name: points(curves["fold_0"], f"step/{name}") for name in ("loss", "learning_rate")}
    steps = [step for step, _ in found["loss"]]
    assert steps == list(range(1, len(steps) + 1)) == [step for step, _ in found["learning_rate"]]
    half = len(steps) // 2
    losses = [value for _, value in found["loss"]]
    for (_, mean), part in zip(
        points(curves["fold_0"], "train/loss"), (losses[:half], losses[half:]), strict=True
    ):
        assert mean == pytest.approx(sum(part) / half, rel=1e-5)
    rates = [value for _, value in found["learning_rate"]]
    assert rates[0] == pytest.approx(2e-3 / 25)
    assert max(rates) > 10 * rates[0] > 100 * rates[-1]


def test_the_log_has_a_row_an_epoch_with_the_values_of_the_curves(run_folder, curves):
    found = rows(run_folder / "fold_0")
    assert [row["epoch"] for row in found] == ["1", "2"]
    assert set(found[0]) == CURVES | {"epoch", "train/sensitivity", "train/specificity"}
    for tag in ("val/loss", "learning_rate"):
        values = [value for _, value in points(curves["fold_0"], tag)]
        assert [float(row[tag]) for row in found] == pytest.approx(values)


def test_the_text_says_which_data_model_and_protocol(curves):
    (event,) = curves["fold_0"].Tensors("run/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    for part in (
        "| data | SIMULATED: physionet2016",
        "| model | pacfnet |",
        "| protocol | beat: ",
        "in test",
    ):
        assert part in text


def test_settings_as_text(curves):
    (event,) = curves["fold_0"].Tensors("settings/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert all(line.startswith("    ") for line in text.splitlines()), "indented, so shown as it is"
    stored = json.loads(text)
    assert (stored["protocol"], stored["model"]["width"], stored["optimization"]["epochs"]) == ("beat", 8, 2)


def test_hyperparameters_with_final_scores(run_folder, curves):
    assert not [path for path in (run_folder / "fold_0").iterdir() if path.is_dir()], "one run a fold"
    events = curves["fold_0"]
    data = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    for name in (
        b"learning_rate",
        b"model",
        b"points",
        b"protocol",
        b"seed",
        b"width",
        b"settings.precision",
    ):
        assert name in data
    assert b"cache" not in data
    assert b"test/recording/auroc" in events.summary_metadata["_hparams_/experiment"].plugin_data.content


def test_histograms_of_weights_and_gradients_every_epoch_and_the_graph(curves):
    events = curves["fold_0"]
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
    found = read(tmp_path)
    assert points(found, "val/auroc") == [(1, 0.5)]
    assert points(found, "val/loss") == [(1, 1.0), (2, 0.25)]


def test_a_resumed_run_keeps_the_finished_epochs_and_drops_what_came_after(tmp_path, monkeypatch):
    """Killed after writing epoch 3 to the curves but before saving it: two epochs are finished."""
    # names of one second are ordered by process number and a counter, as text: 10 before 9
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(9))
    with Tracker(tmp_path) as tracker:
        for step, value in ((1, 0.1), (2, 0.2), (3, 99.0)):
            tracker.scalars({"val/loss": value}, step)
    with Tracker(tmp_path, finished_epochs=2) as tracker:
        tracker.scalars({"val/loss": 0.3}, 3)
    found = points(read(tmp_path), "val/loss")
    assert found == [(1, pytest.approx(0.1)), (2, pytest.approx(0.2)), (3, pytest.approx(0.3))]


class StoppedError(Exception):
    """Stands for a kill in the middle of an epoch."""


def test_curves_and_log_of_a_run_that_was_stopped_are_those_of_one_that_was_not(tmp_path):
    """Stopped in the third epoch, which has four steps, after points of two of them were written."""

    def stop(step, loss):
        if step == 11:
            tracker.step_scalars({"loss": [99.0, 99.0]}, 10)
            tracker.epoch_scalars({"train/loss": 99.0}, 3)
            raise StoppedError
        return loss

    with Tracker(tmp_path / "alone") as tracker:
        fit(toy_run(tmp_path / "alone_ck", schedule="one-cycle"), build(), tracker)
    stopped = tmp_path / "stopped"
    with pytest.raises(StoppedError), Tracker(stopped) as tracker:
        fit(toy_run(tmp_path / "ck", ToyLearner(meddle=stop), schedule="one-cycle"), build(), tracker)
    done = load_checkpoint(tmp_path / "ck" / "last.pt")["progress"]
    with Tracker(stopped, done["epoch"], done["step"]) as tracker:
        fit(toy_run(tmp_path / "ck", schedule="one-cycle"), build(99), tracker, resume=True)
    found, alone = read(stopped), read(tmp_path / "alone")
    tags = alone.Tags()["scalars"]
    assert {"step/loss", "step/learning_rate", "step/gradient_norm", "train/loss"} <= set(tags)
    for tag in set(tags) - {"samples_per_second"}:
        assert points(found, tag) == points(alone, tag), tag
    assert len(points(found, "step/loss")) == 16
    timed = [
        [row | {"samples_per_second": ""} for row in rows(path)] for path in (stopped, tmp_path / "alone")
    ]
    assert timed[0] == timed[1]


def test_a_run_that_begins_again_leaves_nothing_of_the_one_before(tmp_path):
    """Stopped in its first epoch."""
    for value in (99.0, 0.5):
        with Tracker(tmp_path) as tracker:
            tracker.step_scalars({"loss": [value]}, 1)
            tracker.epoch_scalars({"val/loss": value}, 1)
    found = read(tmp_path)
    assert points(found, "step/loss") == points(found, "val/loss") == [(1, 0.5)]
    assert rows(tmp_path) == [{"epoch": "1", "val/loss": "0.5"}]


def test_nothing_is_written_where_a_process_does_not_lead(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure = plt.figure()
    with Tracker(None) as tracker:
        tracker.epoch_scalars({"val/loss": 1.0}, 1)
        tracker.step_scalars({"loss": [1.0]}, 1)
        tracker.figure("test/roc", figure, 1)
        tracker.text("settings", {"seed": 1})
        tracker.hyperparameters({"seed": 1}, {"test/auroc": 0.5})
    plt.close(figure)
    assert list(tmp_path.iterdir()) == []


def test_hyperparameters_that_are_no_numbers_become_text(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.hyperparameters({"folds": [0, 1], "cache": None, "seed": 3}, {"test/auroc": 0.75})
    data = read(tmp_path).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"[0, 1]" in data and b"cache" not in data
