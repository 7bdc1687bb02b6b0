"""Phase fusion through the scripts: any subset of signals from one model, another cohort, stress."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import evaluate
import training
from common.errors import UserError
from config import EvaluationSettings
from learning.checkpoint import load_checkpoint
from systems.ecg_pcg.robustness.corruptions import Corruption
from systems.ecg_pcg.robustness.evaluate import robustness_table


def train(cache, folder, *options):
    return training.main(
        [
            *(
                "--model",
                "phase-fusion",
                "--cache",
                str(cache),
                "--checkpoint-dir",
                str(folder / "checkpoints"),
            ),
            *("--log-dir", str(folder / "runs"), "--device", "cpu", "--threads", "1", "--fold-count", "2"),
            *options,
        ]
    )


def evaluate_run(cache, folder, run, *options):
    evaluate.main(
        [
            *("--checkpoint", str(run), "--cache", str(cache), "--results-dir", str(folder / "results")),
            *("--bootstrap-draws", "0", "--compact", "--device", "cpu", "--threads", "1", *options),
        ]
    )
    hidden = f"-without-{options[1]}" if options[:1] == ("--without",) else ""
    place = folder / "results" / f"{run.name}{hidden}" / "recordings.csv"
    return pd.read_csv(place, dtype={"recording": str}) if place.is_file() else pd.DataFrame()


@pytest.fixture(scope="module")
def run(simulated_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("phase-fusion")
    return folder, train(simulated_cache.path, folder)


def test_one_model_evaluates_both_signals_and_either_one(run, simulated_cache):
    folder, checkpoints = run
    tables = [
        evaluate_run(simulated_cache.path, folder, checkpoints, *options)
        for options in ((), ("--without", "ecg"), ("--without", "pcg"))
    ]
    both, pcg, ecg = (np.log(t["probability"] / (1 - t["probability"])) for t in tables)
    assert tables[0]["recording"].is_unique
    content = load_checkpoint(checkpoints / "fold_0" / "best.pt")
    assert float(content["model"]["share"]) == 0  # too few sessions to split: evidence alone, which adds up
    assert both.to_numpy() == pytest.approx((pcg + ecg).to_numpy(), abs=1e-4)
    assert not np.allclose(pcg, ecg)


def test_nothing_of_the_test_part_is_fitted(run, simulated_cache):
    """A model fitted after the test recordings were replaced by noise is the same model."""
    from systems.ecg_pcg.phase_fusion.task import EcgPcgPhaseFusion

    folder, checkpoints = run
    content = load_checkpoint(checkpoints / "fold_0" / "best.pt")
    test = torch.from_numpy(np.flatnonzero(content["parts"].numpy() == 2))
    original = EcgPcgPhaseFusion.samples

    def spoilt(self, *arguments):
        samples = original(self, *arguments)
        for values in (samples.pcg_grid, samples.ecg_bands, samples.ecg_grid):
            values[test] = torch.randn(len(test), values.shape[1])
        return samples

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EcgPcgPhaseFusion, "samples", spoilt)
        again = train(simulated_cache.path, folder, "--run-name", "spoilt", "--folds", "0")
    other = load_checkpoint(again / "fold_0" / "best.pt")
    assert all(torch.equal(content["model"][name], other["model"][name]) for name in content["model"])


def test_protocols_that_split_beats_are_refused(simulated_cache, tmp_path):
    with pytest.raises(
        UserError, match=r"phase-fusion takes whole recordings.*--protocol recording, session or database"
    ):
        train(simulated_cache.path, tmp_path, "--protocol", "beat")


def test_another_cohort_with_sound_alone_and_one_with_ecg_alone_are_evaluated(run, simulated_cache, tmp_path):
    folder, checkpoints = run
    for missing in ("ecg", "pcg"):
        copy = tmp_path / f"no-{missing}"
        copy.mkdir()
        for path in simulated_cache.path.iterdir():
            if "derived" not in path.name:
                (copy / path.name).write_bytes(path.read_bytes())
        waves = np.load(copy / f"waveforms_{missing}.npy")
        np.save(copy / f"waveforms_{missing}.npy", np.full_like(waves, np.nan))
        manifest = json.loads((copy / "manifest.json").read_text())
        (copy / "manifest.json").write_text(json.dumps(manifest | {"identity": missing * 20}))
        recordings = pd.read_csv(copy / "recordings.csv", dtype={"recording": str})
        recordings.assign(sha256="unseen").to_csv(copy / "recordings.csv", index=False)
        if missing == "pcg":  # nor are there heart states where no sound was
            (copy / "events.csv").write_text("recording,time,state\n")
        evaluate_run(copy, folder, checkpoints)
        evaluated = pd.read_csv(folder / "results" / f"{checkpoints.name}-on-{copy.name}" / "recordings.csv")
        assert len(evaluated) == len(recordings)
        assert evaluated["probability"].between(0, 1).all()
        assert evaluated["probability"].nunique() > len(evaluated) / 2


def test_it_is_evaluated_under_stress_like_any_other_model(run, simulated_cache):
    _, checkpoints = run
    contents = [load_checkpoint(checkpoints / f"fold_{fold}" / "best.pt") for fold in (0, 1)]
    settings = EvaluationSettings(device="cpu", bootstrap_draws=0)
    table = robustness_table(contents, simulated_cache, settings, [Corruption("white", "both", -5.0)])
    assert table["kind"].tolist() == ["clean", "white"]
    assert table["change"].iloc[1] != 0


def test_a_dry_run_says_how_long_it_takes(simulated_cache, tmp_path, capsys):
    train(simulated_cache.path, tmp_path, "--dry-run")
    assert "under a minute each" in capsys.readouterr().out
