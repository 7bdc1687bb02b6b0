"""Missing modalities in the task: what a batch says, what training hides, what the paper zeroes."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from common.errors import UserError
from config import OptimizationSettings
from datasets.splits import final_fold
from learning.distributed import Processes
from learning.loop import FoldContext, Progress, fit, predict
from learning.tracking import Tracker
from models import NETWORKS, TAKES_ABSENCE
from systems.ecg_pcg.settings import ModelSettings, TrainingSettings
from systems.ecg_pcg.task import Beats, EcgPcg, inputs

TASK = EcgPcg()
POINTS = 150
"""Shorter beats reach the head with length 1, where torch 2.13 gets bfloat16 gradients wrong on a CPU."""
CPU = torch.device("cpu")


def settings(**model) -> TrainingSettings:
    options = {"width": 8, "points": POINTS, "dropout": 0.0} | model
    return TrainingSettings(model=ModelSettings(**options), precision="float32")


def beats(count: int = 64, **changes) -> Beats:
    """Noise, and in class 1 a bump in the ECG and a murmur in the heart sound."""
    ecg, pcg = torch.randn(2, count, 1, POINTS, generator=torch.Generator().manual_seed(1))
    label = torch.arange(count) % 2
    time = torch.linspace(0, 1, POINTS)
    ecg = 0.3 * ecg + 2 * label[:, None, None] * torch.exp(-(((time - 0.4) / 0.05) ** 2))
    pcg = 0.3 * pcg + label[:, None, None] * torch.sin(80 * time) * (time > 0.6)
    has = torch.ones(count, dtype=torch.bool)
    made = Beats(pd.DataFrame({"label": label}), ecg, pcg, label, torch.ones(count), has, has)
    return dataclasses.replace(made, **changes)


def cache(has_ecg: list[int]) -> Any:
    """What the task asks of a cache, here of ones with heart sound throughout."""
    count = len(has_ecg)
    table = pd.DataFrame({"label": [0, *[1] * (count - 1)], "has_ecg": has_ecg, "has_pcg": [1] * count})
    return SimpleNamespace(table=lambda _: table, beats=lambda _: np.ones((count, 2 * POINTS), np.float32))


class Recorder(nn.Module):
    """Says which signals it was reported are present."""

    absence_tokens = True

    def forward(self, ecg: Tensor, pcg: Tensor, has_ecg: Tensor, has_pcg: Tensor) -> Tensor:
        self.reported = has_ecg, has_pcg
        return torch.zeros(len(ecg), 2)


def reported(samples: Beats, *, training: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    model = Recorder().train(training)
    TASK.step(model, samples.batch(torch.arange(len(samples))))
    return model.reported


def train(samples: Beats, model: nn.Module, steps: int) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for _ in range(steps):
        losses, _ = TASK.step(model, samples.batch(torch.arange(len(samples))))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()


def test_a_cache_says_which_signals_a_beat_has():
    samples = EcgPcg(settings(modality_dropout=0.5)).samples(cache([1, 0, 0]), CPU)
    batch = samples.batch(torch.tensor([2, 0]))
    assert batch["has_ecg"].tolist() == [False, True]
    assert batch["has_pcg"].tolist() == [True, True]
    assert batch["hide"].tolist() == [0.0, 0.5], "of a beat with one signal nothing is left to hide"
    assert batch["ecg"].shape == (2, 1, POINTS)


def test_a_real_cache_has_the_columns(simulated_cache):
    samples = EcgPcg(settings(points=500)).samples(simulated_cache, CPU)
    assert samples.has_ecg.dtype == samples.has_pcg.dtype == torch.bool
    assert samples.has_ecg.all() and samples.has_pcg.all()
    batch = samples.batch(torch.arange(3))
    assert not batch["hide"].any()
    assert EcgPcg(settings()).for_fold(samples, final_fold(samples.table)).zeroed == "none"


def test_training_hides_one_signal_of_the_share_it_should():
    has_ecg, has_pcg = reported(beats(8000, modality_dropout=0.3), training=True)
    assert (has_ecg | has_pcg).all(), "never both"
    for has in (has_ecg, has_pcg):
        assert (~has).float().mean() == pytest.approx(0.15, abs=0.02)


def test_hiding_follows_the_seed():
    samples = beats(modality_dropout=0.5)
    first, same, other = (torch.stack(reported(samples, training=True, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_extremes(share):
    has_ecg, has_pcg = reported(beats(modality_dropout=share), training=True)
    assert torch.equal(has_ecg ^ has_pcg, torch.full((64,), share == 1.0))


def test_nothing_is_hidden_in_use():
    has_ecg, has_pcg = reported(beats(modality_dropout=1.0), training=False)
    assert has_ecg.all() and has_pcg.all()


def test_a_recording_without_ecg_keeps_its_heart_sound():
    has = torch.arange(64) % 2 == 0
    for training in (True, False):
        has_ecg, has_pcg = reported(beats(has_ecg=has, modality_dropout=1.0), training=training)
        assert has_pcg[~has].all()
        assert not has_ecg[~has].any()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_build_gives_absence_tokens_where_there_is_modality_dropout(name, share):
    requested = settings(model=name, modality_dropout=share)
    if share and name not in TAKES_ABSENCE:
        with pytest.raises(UserError, match="leave --modality-dropout and --zeroed away"):
            EcgPcg(requested).build()
        return
    model = EcgPcg(requested).build()
    assert getattr(model, "absence_tokens", False) is (share > 0)
    batch = beats(4, modality_dropout=share).batch(torch.arange(4))
    assert len(inputs(model, batch)) == (4 if share else 2)
    _, probability = TASK.step(model.eval(), batch)
    assert probability.shape == (4,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality_dropout": 1.5}, "must be 0 to 1, and is 1.5"),
        ({"modality_dropout": -0.1}, "must be 0 to 1"),
        ({"modality_dropout": 0.2, "zeroed": "ecg"}, "exclude each other"),
        ({"model": "ecg-network", "zeroed": "pcg"}, "leave --modality-dropout and --zeroed away"),
        ({"model": "late-fusion", "zeroed": "ecg"}, "leave --modality-dropout and --zeroed away"),
        ({"model": "pacfnett", "zeroed": "ecg"}, "Perhaps you meant pacfnet"),
        ({"width": 12}, "width must be a multiple of 8"),
    ],
)
def test_build_refuses(options, message):
    with pytest.raises(UserError, match=message):
        EcgPcg(settings(**options)).build()


@pytest.mark.parametrize(("zeroed", "kept"), [("ecg", "pcg"), ("pcg", "ecg")])
def test_zeroed_as_in_the_paper(zeroed, kept):
    samples = EcgPcg(settings(zeroed=zeroed)).samples(cache([1, 1]), CPU)
    batch = samples.batch(torch.arange(2))
    assert not batch[zeroed].any() and batch[kept].all()
    assert not batch[f"has_{zeroed}"].any() and batch[f"has_{kept}"].all()
    assert not batch["hide"].any()
    other: dict[str, Any] = {zeroed: torch.randn(2, 1, POINTS)}
    noisy = dataclasses.replace(samples, **other)
    assert not noisy.batch(torch.arange(2))[zeroed].any(), "also when another signal is put in"
    network: Any = EcgPcg(settings(zeroed=zeroed)).build()
    assert network.encoders.keys() == {"ecg", "pcg"}, "the same network, retrained"


@pytest.mark.parametrize("zeroed", ["ecg", "pcg"])
def test_training_with_a_zeroed_signal_stays_sane(zeroed):
    samples = beats(zeroed=zeroed)
    torch.manual_seed(0)
    model = EcgPcg(settings(zeroed=zeroed)).build()
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = TASK.step(model, samples.batch(torch.arange(64)))
    losses["loss"].backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    assert norm < 20, "an encoder of zeros had gradients of 1e4 and more"
    train(samples, model, steps=40)
    rows = torch.arange(64)
    means, found = predict(TASK, model, samples, rows, batch_size=64, device=CPU)
    assert means["loss"] < 0.3
    assert TASK.score(samples, rows, found)["auroc"] > 0.95


@pytest.mark.parametrize(
    ("model", "refused"),
    [
        ({"model": "pcg-network"}, False),
        ({"modality_dropout": 0.1}, False),
        ({"model": "cross-attention", "zeroed": "ecg"}, False),
        ({"model": "pacfnet"}, True),
        ({"model": "late-fusion"}, True),
        ({"model": "ecg-network"}, True),
    ],
)
def test_training_on_heart_sounds_alone_needs_a_network_that_can(model, refused):
    samples = beats(16).without("ecg")
    fold = SimpleNamespace(train=np.arange(12))
    answer: Any = EcgPcg(settings(**model))
    if refused:
        with pytest.raises(UserError, match=r"No training sample has the ECG.* --model pcg-network"):
            answer.for_fold(samples, fold)
    else:
        assert len(answer.for_fold(samples, fold)) == 16


@pytest.mark.parametrize(
    ("model", "refused"),
    [
        ({"model": "pcg-network"}, ""),
        ({"modality_dropout": 0.1}, ""),
        ({"zeroed": "ecg"}, ""),
        ({"model": "pacfnet"}, "No recording of this cache has the ECG, which pacfnet needs"),
        ({"model": "ecg-network"}, "No recording of this cache has the ECG, which ecg-network needs"),
        ({"zeroed": "pcg"}, "2 recordings without ECG, a among them, would leave pacfnet nothing to read"),
    ],
)
def test_a_cache_of_heart_sounds_is_evaluated_by_networks_that_can(model, refused):
    """A network that needs the ECG would read zeros, and score them as if it had seen one."""
    samples, answer = named(beats(16)).without("ecg"), EcgPcg(settings(**model))
    if refused:
        with pytest.raises(UserError, match=refused):
            answer.with_inputs(samples, {})
    else:
        assert answer.with_inputs(samples, {}) is samples


def test_zeros_that_a_network_reads_are_named(capsys):
    some = named(beats(16, has_ecg=torch.arange(16) >= 8))
    EcgPcg(settings()).with_inputs(some, {})
    assert "no ECG in 1 recording: pacfnet reads zeros in its place" in capsys.readouterr().out


def test_not_every_signal_can_be_hidden():
    answer = EcgPcg(settings(modality_dropout=0.5))
    alone = answer.without(named(beats(16)), "ecg")
    with pytest.raises(UserError, match="2 recordings without ECG and heart sound, a among them"):
        answer.without(alone, "pcg")


def test_a_zeroed_network_is_not_trained_on_what_lacks_the_other_signal():
    samples = named(beats(16, has_ecg=torch.arange(16) >= 8))
    with pytest.raises(UserError, match="1 recording without ECG, a among them"):
        EcgPcg(settings(zeroed="pcg")).for_fold(samples, final_fold(samples.table))


def named(samples: Beats) -> Beats:
    """Give half of the beats to one recording, and half to another."""
    half = len(samples) // 2
    return dataclasses.replace(samples, table=samples.table.assign(recording=["a"] * half + ["b"] * half))


@pytest.mark.parametrize("name", ["pacfnet", "cross-attention"])
def test_one_trained_network_scores_every_subset(name):
    torch.manual_seed(0)
    samples = beats(modality_dropout=0.5)
    model = EcgPcg(settings(model=name, modality_dropout=0.5)).build()
    train(samples, model, steps=40)
    rows = torch.arange(len(samples))
    subsets = {"both": samples, "ecg": samples.without("pcg"), "pcg": samples.without("ecg")}
    found = {}
    for kind, subset in subsets.items():
        _, found[kind] = predict(TASK, model, subset, rows, batch_size=32, device=CPU)
        assert TASK.score(samples, rows, found[kind])["auroc"] > 0.95, kind
    assert not torch.equal(found["ecg"], found["pcg"])
    noise = dataclasses.replace(subsets["ecg"], pcg=torch.randn(64, 1, POINTS))
    _, again = predict(TASK, model, noise, rows, batch_size=32, device=CPU)
    assert torch.equal(again, found["ecg"])


def test_without_both_there_is_nothing_to_score():
    model = EcgPcg(settings(modality_dropout=0.5)).build().eval()
    with pytest.raises(ValueError, match="neither ECG nor PCG"):
        TASK.step(model, beats(4).without("ecg").without("pcg").batch(torch.arange(4)))


def test_networks_without_tokens_get_zeros_for_what_is_absent():
    model = EcgPcg(settings()).build().eval()
    batch = beats(4).without("ecg").batch(torch.arange(4))
    _, probability = TASK.step(model, batch)
    expected = model(torch.zeros(4, 1, POINTS), batch["pcg"]).softmax(1)[:, 1]
    assert torch.equal(probability, expected)


class Stopping(Tracker):
    """Ends the run as its third epoch ends, before that is saved."""

    def scalars(self, values, step):
        if step == 3:
            raise KeyboardInterrupt


def run_fold(folder: Path, tracker: Tracker, resume: bool = False) -> tuple[Progress, nn.Module]:
    folder.mkdir(exist_ok=True)
    optimization = OptimizationSettings(epochs=4, batch_size=16, schedule="one-cycle", early_stop=0)
    torch.manual_seed(3)
    model = EcgPcg(settings(modality_dropout=0.5, dropout=0.5)).build()
    run = FoldContext(
        learner=TASK,
        samples=beats(modality_dropout=0.5),
        train=torch.arange(48),
        validation=torch.arange(48, 64),
        optimization=optimization,
        seed=3,
        device=CPU,
        precision=torch.float32,
        processes=Processes(),
        folder=folder,
        metadata={},
        label="toy",
    )
    return fit(run, model, tracker, resume=resume), model


def test_a_resumed_run_hides_the_same_signals(tmp_path):
    whole, expected = run_fold(tmp_path / "whole", Tracker(None))
    with pytest.raises(KeyboardInterrupt):
        run_fold(tmp_path / "parts", Stopping(None))
    parts, model = run_fold(tmp_path / "parts", Tracker(None), resume=True)
    assert parts.epoch == whole.epoch == 4
    for key, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
