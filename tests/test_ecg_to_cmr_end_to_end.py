"""Cines drawn from ECGs through the three scripts, on simulated patients: trained, drawn and measured."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
import load_data
import predict
import training
from common.errors import UserError
from learning import loop
from learning.checkpoint import load_checkpoint
from systems.ecg_cmr.cine.measures import MEASURED
from systems.ecg_cmr.sources.simulated import write_pairs

VIEWS = ["--frames", "4", "--size", "32", "--pixel-spacing", "4.4", "--seconds", "2", "--ecg-rate", "100"]
TINY = ["--preset", "small", "--width", "16", "--depth", "1", "--heads", "2", "--patch-seconds", "0.4"]
TINY += ["--epochs", "2", "--batch-size", "8", "--precision", "float32", "--device", "cpu", "--threads", "1"]
FRAMES = ["--channels", "16", "16", "--latent-channels", "2"]
SAME = ["--autoencoder.channels", "16", "16", "--autoencoder.latent-channels", "2"]
FEW = ["--patients", "6", "--bootstrap-draws", "20", "--threads", "1"]
SAMPLING = ["--steps", "2", "--samples", "2"]


class Workspace:
    """One folder with simulated pairs, checkpoints, curves and results."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places = ["--cache-dir", str(root / "cache")]

    def train(self, task: str, name: str, *options: str) -> Path:
        places = ["--checkpoint-dir", str(self.root / "checkpoints"), "--log-dir", str(self.root / "runs")]
        return training.main([task, *TINY, *self.places, *places, "--run-name", name, *options])

    def evaluate(self, checkpoint: Path, *options: str) -> dict:
        places = ["--results-dir", str(self.root / "results")]
        return evaluate.main(["--checkpoint", str(checkpoint), *self.places, *places, *FEW, *options])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("drawn"))
    words = ["ecg-to-cmr", "--simulate", "--patients", "40", "--jobs", "1", *VIEWS, *workspace.places]
    load_data.main(words)
    return workspace


@pytest.fixture(scope="module")
def parents(workspace) -> list[str]:
    both = workspace.train("ecg-cmr-contrast", "both")
    frames = workspace.train("cine-autoencoder", "frames", *FRAMES)
    return ["--init-ecg", str(both), "--init-cmr", str(both), "--init-autoencoder", str(frames)]


@pytest.fixture(scope="module")
def run(workspace, parents) -> Path:
    return workspace.train("ecg-to-cmr", "drawn", *parents, *SAME, "--channels", "64")


@pytest.fixture(scope="module")
def metrics(workspace, run) -> dict:
    return workspace.evaluate(run, *SAMPLING)


def test_everything_that_is_promised_is_scored(workspace, run, metrics):
    assert metrics["stamp"] == "simulated data" and metrics["counts"]["patients"] == 6
    ways = {row["source"] for row in metrics["indicators"]}
    assert len(ways) == 8 and "generated, mean of samples" in ways and "regression from the ECG" in ways
    assert {row["indicator"] for row in metrics["comparisons"]} >= {"ejection_fraction", "lv_mass"}
    images = pd.DataFrame(metrics["images"]).set_index("cines")
    assert images[["ssim", "psnr", "frechet"]].notna().all().all()
    assert images["ssim"].between(-1, 1).all()
    assert {row["cines"] for row in metrics["memorization"]} == {"generated", "unseen"}
    assert metrics["guidance"][0]["chosen"] is True
    figures = workspace.root / "results" / run.name / "figures"
    assert {path.stem for path in figures.glob("*.png")} == {
        "learning_curves",
        "bland_altman",
        "bland_altman_method",
        "story",
    }


def test_evaluating_again_draws_the_same_cines(workspace, run, metrics):
    again = workspace.evaluate(run, *SAMPLING, "--batch-size", "5", "--compact")
    for table in ("images", "memorization", "spread"):
        for first, second in zip(metrics[table], again[table], strict=True):
            for key, value in first.items():
                if isinstance(value, float) and value == value:
                    assert second[key] == pytest.approx(value, rel=1e-3, abs=1e-3)


def test_whoever_is_evaluated_was_seen_by_no_stage(workspace, run, metrics):
    evaluated = set(pd.read_csv(workspace.root / "results" / run.name / "predictions.csv")["session"])
    content = load_checkpoint(run / "fold_0" / "best.pt")
    learned = set(content["trained_on"]["session"])
    learned |= {name for parent in content["parents"] for name in parent["session"]}
    assert {parent["kind"] for parent in content["parents"]} == {"ecg", "autoencoder", "cmr"}
    assert evaluated and not evaluated & learned


def test_another_cache_of_the_same_patients_is_evaluated_on_those_not_learned_from(
    workspace, parents, tmp_path
):
    frames = Path(parents[-1])
    (cache,) = (path.parent for path in (workspace.root / "cache").glob("*/manifest.json"))
    copy = shutil.copytree(cache, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"identity": "0" * 64}))
    metrics = workspace.evaluate(frames, "--cache", str(copy), "--patients", "40", "--compact")
    assert metrics["protocol"] == "external"
    results = workspace.root / "results" / "frames-on-copy" / "predictions.csv"
    learned = load_checkpoint(frames / "fold_0" / "best.pt")["trained_on"]["session"]
    assert not set(pd.read_csv(results)["session"]) & set(learned)


def test_resuming_is_exact(workspace, parents, run):
    words = (*parents, *SAME, "--channels", "64")
    straight = load_checkpoint(run / "fold_0" / "last.pt")["model"]
    saved = loop._save
    count = []

    def stopping(*arguments):
        saved(*arguments)
        count.append(1)
        if len(count) == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_save", stopping)
        with pytest.raises(KeyboardInterrupt):
            workspace.train("ecg-to-cmr", "stopped", *words)
    stopped = workspace.train("ecg-to-cmr", "stopped", *words, "--resume")
    found = load_checkpoint(stopped / "fold_0" / "last.pt")["model"]
    assert found.keys() == straight.keys()
    assert all(torch.equal(found[name], straight[name]) for name in straight)


def test_parents_are_needed_and_must_be_what_they_are_taken_for(workspace, parents):
    with pytest.raises(UserError, match="--init-ecg"):
        workspace.train("ecg-to-cmr", "orphan")
    swapped = [parents[0], parents[5], *parents[2:4], parents[4], parents[1]]
    with pytest.raises(UserError, match="no encoder of the ECG"):
        workspace.train("ecg-to-cmr", "swapped", *swapped, *SAME, "--channels", "64")
    with pytest.raises(UserError, match=r"--autoencoder\.channels"):
        workspace.train("ecg-to-cmr", "other", *parents, "--autoencoder.channels", "32", "32")


def test_the_autoencoder_is_evaluated_by_what_is_measured_through_it(workspace, parents):
    metrics = workspace.evaluate(Path(parents[5]))
    assert {row["source"] for row in metrics["indicators"]} == {
        "true cine",
        "true cine through the autoencoder",
    }
    assert np.isfinite(metrics["images"][0]["ssim"])


def test_nobody_whom_the_autoencoder_was_trained_on_is_in_its_external_test(workspace, parents):
    words = ["ecg-to-cmr", "--simulate", "--patients", "40", "--jobs", "1", *VIEWS, "--long-axis"]
    other = load_data.main([*words, "--cache-dir", str(workspace.root / "same patients")])
    frames = Path(parents[5])
    workspace.evaluate(frames, "--cache", str(other), "--compact")
    folder = workspace.root / "results" / f"{frames.name}-on-{other.name}"
    evaluated = set(pd.read_csv(folder / "predictions.csv")["recording"])
    learned = load_checkpoint(frames / "fold_0" / "best.pt")["trained_on"]["recording"]
    assert evaluated and not evaluated & set(learned)


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("raw") / "pairs", patients=3, kind="npy", long_axis=False)


def generate(run: Path, out: Path, *given: object) -> list[dict[str, Any]]:
    words = ["--checkpoint", run, "--ecg-rate", "500", "--steps", "2", "--samples", "3", "--threads", "1"]
    return predict.main([str(word) for word in (*words, "--out", out, *given)])


def test_cines_are_generated_from_an_ecg_the_same_again_and_marked(run, raw, tmp_path, capsys):
    ecg = sorted((raw / "ecg").glob("*.npy"))[0]
    with pytest.raises(UserError, match="name a folder with --out"):
        predict.main(["--checkpoint", str(run), "--ecg", str(ecg)])
    (found,) = generate(run, tmp_path / "out", "--ecg", ecg)
    text = capsys.readouterr().out
    assert "GENERATED" in text and "Measured in 3 cines" in text and "ejection fraction" in text
    assert "SIMULATED patients trained this model" in text
    assert set(found["indicators"]) == set(MEASURED) and found["trained_on_simulated"] is True
    assert all(Path(name).stat().st_size > 100 for name in found["files"])
    stem = tmp_path / "out" / f"{ecg.stem}_generated"
    image: Any = nibabel.load(f"{stem}.nii.gz")
    assert image.shape == (32, 32, 1, 4) and b"GENERATED" in bytes(image.header["descrip"])
    assert image.header.get_zooms()[:2] == pytest.approx((4.4, 4.4))
    with Image.open(f"{stem}.gif") as gif, Image.open(f"{stem}.png") as png:
        assert getattr(gif, "n_frames", 0) == 4 and b"GENERATED" in gif.info["comment"]
        assert "GENERATED" in png.info["Description"]
    (again,) = generate(run, tmp_path / "again", "--ecg", ecg, "--json")
    assert json.loads(capsys.readouterr().out)["recordings"] == [again]
    assert again | {"files": found["files"]} == found
    written = json.loads(Path(f"{stem}.json").read_text(encoding="utf-8"))
    assert written == {name: value for name, value in found.items() if name not in ("files", "kept")}
    twin: Any = nibabel.load(tmp_path / "again" / f"{ecg.stem}_generated.nii.gz")
    assert (np.asanyarray(twin.dataobj) == np.asanyarray(image.dataobj)).all()
    with pytest.raises(UserError, match="no ECG"):
        generate(run, tmp_path / "out", "--ecg", tmp_path / "nothing")


def test_a_folder_of_ecgs_gives_each_what_it_gives_alone_and_goes_on_after_a_stop(run, raw, tmp_path, capsys):
    folder, out = raw / "ecg", tmp_path / "out"
    names = sorted(path.stem for path in folder.glob("*.npy"))
    (alone,) = generate(run, out, folder / f"{names[1]}.npy")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    rows = generate(run, out, folder, "--resume")
    assert [row["recording"] for row in rows] == names
    assert [row["kept"] for row in rows] == [False, True, False]
    assert rows[1] | {"kept": False} == alone
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(len(row["files"]) == 4 and Path(row["files"][0]).is_file() for row in rows)
    assert "Predicted 3 of 3 recordings" in capsys.readouterr().out
    anew = generate(run, out, folder)
    assert [row["indicators"] for row in anew] == [row["indicators"] for row in rows]
    assert not any(row["kept"] for row in anew)


def test_what_was_made_otherwise_or_lacks_a_file_is_made_anew(run, raw, tmp_path):
    ecg = sorted((raw / "ecg").glob("*.npy"))[0]
    own, out = tmp_path / "own.npy", tmp_path / "out"
    np.save(own, np.load(ecg))
    generate(run, out, own)

    def kept(*options: object) -> bool:
        (row,) = generate(run, out, own, "--resume", *options)
        return row["kept"]

    assert kept()
    assert not kept("--seed", "1") and not kept("--samples", "2") and not kept()
    assert kept()
    (out / "own_generated.gif").unlink()
    assert not kept() and (out / "own_generated.gif").is_file()
    (out / "own_generated.json").write_text("{", encoding="utf-8")
    assert not kept()
    np.save(own, 1.1 * np.load(ecg))
    assert not kept() and kept()


def test_a_call_that_stopped_while_it_wrote_leaves_nothing_to_be_kept(run, raw, tmp_path, monkeypatch):
    ecg, out = sorted((raw / "ecg").glob("*.npy"))[0], tmp_path / "out"
    (first,) = generate(run, out, ecg)
    image = Path(first["files"][0])
    own = image.read_bytes()
    monkeypatch.setattr("systems.ecg_cmr.generation.predict.write_gif", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        generate(run, out, ecg, "--seed", "1")
    assert image.read_bytes() != own
    monkeypatch.undo()
    (again,) = generate(run, out, ecg, "--resume")
    assert not again["kept"] and image.read_bytes() == own


def test_a_lead_of_which_much_is_missing_counts_as_absent_as_in_training(run, raw, tmp_path):
    ecg = np.load(sorted((raw / "ecg").glob("*.npy"))[0])
    ecg[7, 1000:3000] = np.nan
    np.save(tmp_path / "gap.npy", ecg)
    (found,) = generate(run, tmp_path / "out", tmp_path / "gap.npy")
    assert "V2" not in found["leads_used"] and len(found["leads_used"]) == 11
    assert any("lacks V2" in warning["text"] for warning in found["warnings"])
    ecg[:, 1000:3000] = np.nan
    np.save(tmp_path / "gaps.npy", ecg)
    with pytest.raises(UserError, match="of each of its leads is missing"):
        generate(run, tmp_path / "out", tmp_path / "gaps.npy")


def test_an_ecg_that_cannot_be_used_does_not_stop_the_others(run, raw, tmp_path, capsys):
    ecg = sorted((raw / "ecg").glob("*.npy"))[0]
    np.save(tmp_path / "volts.npy", np.load(ecg) / 1000)
    with pytest.raises(SystemExit) as stopped:
        generate(run, tmp_path / "out", ecg, tmp_path / "volts.npy")
    assert stopped.value.code == 1
    text = capsys.readouterr().out
    assert "Predicted 1 of 2" in text and "refused" in text


def test_tensorboard_shows_generated_cines_beside_the_true_ones(workspace, parents, run):
    words = (*parents, *SAME, "--channels", "64", "--epochs", "5")
    shown = workspace.train("ecg-to-cmr", "shown", *words, "--show-every", "2")
    assert images_of(workspace.root / "runs" / shown.name)["val/generated"] == [2, 4, 5]
    assert images_of(workspace.root / "runs" / run.name)["val/generated"] == [2]  # of two epochs, the last
    hidden = workspace.train("ecg-to-cmr", "hidden", *words, "--show-every", "0")
    assert "val/generated" not in images_of(workspace.root / "runs" / hidden.name)
    one, other = (load_checkpoint(path / "fold_0" / "last.pt")["model"] for path in (shown, hidden))
    assert all(torch.equal(one[name], other[name]) for name in one), "to look changes nothing"


def images_of(folder: Path) -> dict[str, list[int]]:
    """Return the steps of each picture of the first fold."""
    events = EventAccumulator(str(folder / "fold_0"), size_guidance={"images": 0})
    events.Reload()
    return {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


def test_a_run_that_generates_nothing_is_refused(parents, tmp_path):
    words = ["--checkpoint", parents[1], "--ecg", "somewhere.npy", "--out", str(tmp_path)]
    with pytest.raises(UserError, match="of task ecg-cmr-contrast, which has no prediction"):
        predict.main(words)


def test_a_run_is_evaluated_on_its_own_cache_only(workspace, run):
    words = ["ecg-to-cmr", "--simulate", "--patients", "30", "--jobs", "1", *VIEWS, "--simulation.seed", "5"]
    other = load_data.main([*words, "--cache-dir", str(workspace.root / "elsewhere")])
    with pytest.raises(UserError, match="cache that it was trained from"):
        workspace.evaluate(run, *SAMPLING, "--cache", str(other))
