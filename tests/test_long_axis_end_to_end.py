"""The long axis through the scripts, on simulated patients: learned, aligned beside the short, generated."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import evaluate
import load_data
import predict
import training
from common.errors import UserError
from learning.checkpoint import load_checkpoint
from systems.ecg_cmr.sources.simulated import write_pairs

VIEWS = ["--frames", "4", "--size", "32", "--pixel-spacing", "4.4", "--seconds", "2", "--ecg-rate", "100"]
LONG_VIEWS = [*VIEWS, "--long-axis", "--long-axis-spacing", "6.4"]
TINY = ["--preset", "small", "--width", "16", "--depth", "1", "--heads", "2", "--patch-seconds", "0.4"]
TINY += ["--epochs", "1", "--batch-size", "8", "--precision", "float32", "--device", "cpu", "--threads", "1"]
FRAMES = ["--channels", "16", "16", "--latent-channels", "2"]
SAME = ["--autoencoder.channels", "16", "16", "--autoencoder.latent-channels", "2", "--channels", "64"]
LONG = ["--axis", "long"]


class Workspace:
    """One folder with simulated pairs of both axes, checkpoints, curves and results."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places = ["--cache-dir", str(root / "cache")]
        words = ["ecg-cmr-contrast", "--simulate", "--patients", "30", "--jobs", "1", *LONG_VIEWS]
        load_data.main([*words, *self.places])

    def train(self, task: str, name: str, *options: object) -> Path:
        places = ["--checkpoint-dir", str(self.root / "checkpoints"), "--log-dir", str(self.root / "runs")]
        words = [task, *TINY, *self.places, *places, "--run-name", name, *map(str, options)]
        return training.main(words)

    def evaluate(self, run: Path, *options: str) -> dict[str, Any]:
        places = ["--results-dir", str(self.root / "results"), "--bootstrap-draws", "10", "--threads", "1"]
        return evaluate.main(["--checkpoint", str(run), *self.places, *places, *options])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("axes"))


@pytest.fixture(scope="module")
def masked(workspace) -> dict[str, Path]:
    return {axis: workspace.train("cmr-mae", axis, "--axis", axis) for axis in ("short", "long")}


@pytest.fixture(scope="module")
def both(workspace, masked) -> Path:
    parents = ("--init-cmr", masked["short"], "--init-long-axis", masked["long"])
    return workspace.train("ecg-cmr-contrast", "both", "--axis", "both", *parents)


@pytest.fixture(scope="module")
def frames(workspace) -> Path:
    return workspace.train("cine-autoencoder", "frames", *LONG, *FRAMES)


def test_each_axis_has_a_masked_autoencoder_of_its_own_cines(workspace, masked):
    errors = {axis: workspace.evaluate(run, "--compact")["reconstruction"][0] for axis, run in masked.items()}
    assert errors["short"]["recordings"] == errors["long"]["recordings"] == 6
    assert errors["short"]["value"] != errors["long"]["value"]


def test_both_axes_are_aligned_and_evaluated_one_by_one_and_together(workspace, both):
    content = load_checkpoint(both / "fold_0" / "best.pt")
    assert {parent["kind"] for parent in content["parents"]} == {"cmr", "long_axis"}
    table = pd.DataFrame(workspace.evaluate(both)["retrieval"])
    images = ("CMR", "long axis", "both axes")
    ways = {f"ECG to {name}" for name in images} | {f"{name} to ECG" for name in images}
    assert set(table["direction"]) == ways
    assert (table["pairs"] == 6).all() and table["recall"].between(0, 1).all()
    assert (workspace.root / "results" / "both" / "figures" / "retrieval.png").is_file()
    log = pd.read_csv(workspace.root / "runs" / "both" / "fold_0" / "log.csv")
    assert {"val/recall_at_10", "val/long_axis_recall_at_10"} <= set(log)
    child = workspace.train("ecg-phenotypes", "child", "--init-ecg", both)
    assert load_checkpoint(child / "fold_0" / "best.pt")["parents"][0]["run"] == "both"


def test_an_encoder_of_the_other_axis_is_refused(workspace, masked, frames):
    with pytest.raises(UserError, match="has no encoder of the long axis"):
        workspace.train("ecg-cmr-contrast", "wrong", *LONG, "--init-cmr", masked["short"])
    with pytest.raises(UserError, match="reads no long axis: leave --init-long-axis away"):
        workspace.train("ecg-cmr-contrast", "none", "--init-long-axis", masked["long"])
    parents = ("--init-ecg", masked["short"], "--init-autoencoder", frames)
    with pytest.raises(UserError, match="--init-cmr PATH: a run of cmr-mae --axis long"):
        workspace.train("ecg-to-cmr", "blind", *LONG, *parents)


def test_a_long_axis_is_generated_judged_and_written(workspace, masked, both, frames, tmp_path, capsys):
    through = workspace.evaluate(frames)
    assert "indicators" not in through and np.isfinite(through["images"][0]["ssim"])
    parents = ("--init-ecg", both, "--init-cmr", masked["long"], "--init-autoencoder", frames)
    with pytest.raises(UserError, match="is of the long axis, this run of the short one"):
        workspace.train("ecg-to-cmr", "mixed", "--init-ecg", both, "--init-autoencoder", frames, *SAME)
    run = workspace.train("ecg-to-cmr", "drawn", *LONG, *parents, *SAME)
    found = workspace.evaluate(run, "--steps", "2", "--samples", "2", "--guidance", "1")
    rows = {(row["source"], row["indicator"]): row for row in found["indicators"]}
    assert np.isfinite(rows["true cine", "lv_edv"]["mae"])
    assert np.isfinite(rows["generated, mean of samples", "ejection_fraction"]["mae"])
    frechet = {row["cines"]: row["frechet"] for row in found["images"]}
    assert np.isfinite(frechet["generated"])
    raw = write_pairs(tmp_path / "raw", patients=1, kind="npy", long_axis=False)
    ecg = next((raw / "ecg").glob("*.npy"))
    words = ["--checkpoint", run, ecg, "--ecg-rate", "500", "--steps", "2", "--out", tmp_path / "out"]
    (row,) = predict.main([*map(str, words), "--threads", "1"])
    assert row["axis"] == "long" and row["pixel_spacing_mm"] == 6.4 and row["indicators"] == {}
    assert "of the long axis" in capsys.readouterr().out and Path(row["files"][0]).is_file()


def test_without_a_prepared_long_axis_the_way_to_it_is_named(workspace):
    plain = ["--cache-dir", str(workspace.root / "plain")]
    load_data.main(["cmr-mae", "--simulate", "--patients", "6", "--jobs", "1", *VIEWS, *plain])
    with pytest.raises(UserError, match=r"without the long axis.*prepare it again with load_data.py"):
        workspace.train("cmr-mae", "unprepared", *LONG, *plain)
