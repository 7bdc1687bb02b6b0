"""The task: which tensors it makes of a cache, its class weights, loss, scores, threshold and figures."""

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from torch import nn

from common.errors import UserError
from config import OptimizationSettings
from datasets.splits import Fold, final_fold
from models.pacfnet import FusionLevel
from systems import registry
from systems.ecg_pcg.settings import ModelSettings, TrainingSettings, defaults
from systems.ecg_pcg.task import Beats, EcgPcg

CPU = torch.device("cpu")
SETTINGS = TrainingSettings(model=ModelSettings(width=8, points=100), precision="float32")
TASK = EcgPcg()


class Fixed(nn.Module):
    """Gives the logits it was reported."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, ecg: torch.Tensor, pcg: torch.Tensor) -> torch.Tensor:
        return self.logits


def toy_beats(labels: list[int], recordings: list[str] | None = None) -> Beats:
    """Return beats whose ECG is their row number and whose PCG is the negative of it."""
    count = len(labels)
    number = torch.arange(count, dtype=torch.float32).reshape(-1, 1, 1).expand(-1, 1, 100)
    table = pd.DataFrame(
        {
            "sample": range(count),
            "recording": recordings or [f"a{row:04d}" for row in range(count)],
            "session": "C1",
            "person": "C1P1",
            "label": labels,
            "diagnosis": "",
            "site": "",
            "start": 0.0,
            "end": 1.0,
        }
    )
    values = {
        "table": table,
        "ecg": number,
        "pcg": -number,
        "label": torch.tensor(labels),
        "weight": torch.ones(count),
        "has_ecg": torch.ones(count, dtype=torch.bool),
        "has_pcg": torch.ones(count, dtype=torch.bool),
    }
    return Beats(
        **{item.name: values[item.name] for item in dataclasses.fields(Beats) if item.name in values}
    )


def fold_of(train: list[int], test: list[int]) -> Fold:
    return Fold(0, np.array(train), np.zeros(0, dtype=np.int64), np.array(test))


@pytest.fixture(scope="module")
def samples(simulated_cache):
    return EcgPcg(SETTINGS).samples(simulated_cache, CPU)


def test_task_is_listed_under_its_name():
    assert isinstance(registry.make_task("ecg-pcg"), EcgPcg)
    assert all(registry.make_task(name).name == name for name in registry.TASKS)


def test_samples_are_the_beats_of_the_cache(simulated_cache, samples):
    table = simulated_cache.table("samples")
    assert len(samples) == len(table) > 100
    assert samples.ecg.shape == samples.pcg.shape == (len(table), 1, 100)
    assert samples.ecg.dtype == samples.pcg.dtype == torch.float32
    assert samples.label.tolist() == table["label"].tolist()
    assert set(samples.label.tolist()) == {0, 1}
    for kind in ("ecg", "pcg"):
        tensor = getattr(samples, kind)[:, 0]
        cached = torch.from_numpy(np.array(simulated_cache.beats(kind)))
        middles = cached.reshape(len(table), 100, -1).mean(dim=-1)  # a rough view of the same beats
        alike = torch.corrcoef(torch.stack([tensor.flatten(), middles.flatten()]))[0, 1]
        assert alike > (0.8 if kind == "ecg" else 0.0), kind
    assert not torch.equal(samples.ecg, samples.pcg)


def test_all_cached_points_are_the_cached_beats(simulated_cache):
    points = simulated_cache.beats("ecg").shape[1]
    whole = EcgPcg(dataclasses.replace(SETTINGS, model=ModelSettings(width=8, points=points))).samples(
        simulated_cache, CPU
    )
    assert np.array_equal(whole.ecg[:, 0].numpy(), simulated_cache.beats("ecg"))
    assert np.array_equal(whole.pcg[:, 0].numpy(), simulated_cache.beats("pcg"))


def test_batch_has_the_contract_of_the_layout():
    beats = toy_beats([0, 1, 1, 0])
    batch = beats.batch(torch.tensor([3, 1]))
    assert {"ecg", "pcg", "label", "weight"} <= set(batch)
    assert batch["ecg"].shape == batch["pcg"].shape == (2, 1, 100)
    assert batch["ecg"][:, 0, 0].tolist() == [3.0, 1.0]
    assert batch["pcg"][:, 0, 0].tolist() == [-3.0, -1.0]
    assert batch["label"].tolist() == [0, 1]


def test_class_weights_by_hand():
    """One normal and three abnormal to learn from: 4 / (2 * 1) and 4 / (2 * 3); the test part counts not."""
    beats = toy_beats([0, 1, 1, 1, 0, 0, 0])
    weighted = EcgPcg(SETTINGS).for_fold(beats, fold_of([0, 1, 2, 3], [4, 5, 6]))
    normal, abnormal = 2.0, 2 / 3
    assert weighted.weight.tolist() == pytest.approx([normal, *[abnormal] * 3, *[normal] * 3])
    assert beats.weight.tolist() == [1.0] * 7
    assert float(weighted.weight[:4].sum()) == pytest.approx(4.0), "the mean weight of the train part is 1"


def test_balanced_classes_have_weight_one():
    beats = toy_beats([0, 1, 0, 1])
    assert EcgPcg(SETTINGS).for_fold(beats, fold_of([0, 1, 2, 3], [])).weight.tolist() == [1.0] * 4


def test_class_weights_can_be_left_away():
    settings = dataclasses.replace(SETTINGS, optimization=OptimizationSettings(class_weights=False))
    beats = toy_beats([0, 1, 1, 1])
    assert EcgPcg(settings).for_fold(beats, fold_of([0, 1, 2, 3], [])).weight.tolist() == [1.0] * 4


def test_a_part_without_one_class_has_finite_weights():
    weights = EcgPcg(SETTINGS).for_fold(toy_beats([1, 1, 0]), fold_of([0, 1], [2])).weight
    assert torch.isfinite(weights).all()


def test_loss_and_probability_by_hand():
    """Logits (0, ln 3): probability 3/4 of abnormal."""
    model = Fixed(torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]]))
    beats = EcgPcg(SETTINGS).for_fold(toy_beats([0, 1, 1, 1]), fold_of([0, 1, 2, 3], []))
    losses, probability = TASK.step(model, beats.batch(torch.tensor([0, 1])))
    assert probability.tolist() == pytest.approx([0.75, 0.75])
    expected = (2.0 * -math.log(0.25) + 2 / 3 * -math.log(0.75)) / 2
    assert float(losses["loss"]) == pytest.approx(expected, rel=1e-5)


def test_focal_loss_by_hand():
    """Probability 1/4 of the true class counts (3/4)^2 of its cross-entropy, and 3/4 counts (1/4)^2."""
    task = EcgPcg(dataclasses.replace(SETTINGS, focal_gamma=2.0))
    model = Fixed(torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]]))
    losses, _ = task.step(model, toy_beats([0, 1]).batch(torch.tensor([0, 1])))
    expected = (9 / 16 * -math.log(0.25) + 1 / 16 * -math.log(0.75)) / 2
    assert float(losses["loss"]) == pytest.approx(expected, rel=1e-5)


def test_network_reads_the_signals_in_their_places():
    seen = []

    class Watching(Fixed):
        def forward(self, ecg, pcg):
            seen.append((ecg, pcg))
            return self.logits

    TASK.step(Watching(torch.zeros(2, 2)), toy_beats([0, 1, 1]).batch(torch.tensor([1, 2])))
    ((ecg, pcg),) = seen
    assert ecg[:, 0, 0].tolist() == [1.0, 2.0]
    assert pcg[:, 0, 0].tolist() == [-1.0, -2.0]


def test_network_is_that_of_the_settings():
    sizes = {}
    for preset in ("paper", "small"):
        model = EcgPcg(defaults(preset, "session")).build()
        sizes[preset] = sum(weight.numel() for weight in model.parameters())
    assert sizes["paper"] == 11_723_898
    assert sizes["small"] < sizes["paper"] / 12
    options = ModelSettings(width=16, kernel_size=5, dropout=0.25, attention="parallel")
    model = EcgPcg(TrainingSettings(model=options)).build()
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.25}
    assert next(layer for layer in model.modules() if isinstance(layer, nn.Conv1d)).weight.shape == (16, 1, 5)
    fusions = [module for module in model.modules() if isinstance(module, FusionLevel)]
    assert [fusion.cascaded for fusion in fusions] == [False] * 4


def test_scores_by_hand():
    """Of rows 1 to 4: normal .2 .6, abnormal .4 .9: 3 of 4 pairs in order; one of two right in each class."""
    beats = toy_beats([1, 0, 0, 1, 1])
    scores = TASK.score(beats, torch.tensor([1, 2, 3, 4]), torch.tensor([0.2, 0.6, 0.4, 0.9]))
    assert scores == {"accuracy": 0.5, "auroc": 0.75, "sensitivity": 0.5, "specificity": 0.5}


def test_score_of_one_class_is_not_a_number():
    assert math.isnan(TASK.score(toy_beats([1, 1]), torch.arange(2), torch.tensor([0.2, 0.6]))["auroc"])


def test_threshold_separates_the_validation_part():
    beats = toy_beats([0, 0, 0, 1, 1])
    threshold = TASK.threshold(beats, torch.arange(1, 5), torch.tensor([0.1, 0.2, 0.3, 0.35]))
    assert 0.2 < threshold <= 0.3


def test_beats_are_described_by_their_recordings():
    beats = toy_beats([0, 1, 1, 0], ["a0007", "a0003", "a0007", "a0001"])
    assert beats.describe(torch.tensor([0, 1, 2])) == "recordings a0003, a0007"


def test_predictions_have_a_row_a_beat():
    beats = toy_beats([0, 1, 1, 0])
    table = TASK.predictions(beats, np.array([3, 1]), torch.tensor([0.25, 0.75]))
    assert table["sample"].tolist() == [3, 1]
    assert table["label"].tolist() == [0, 1]
    assert table["probability"].tolist() == [0.25, 0.75]
    assert {"recording", "session", "person", "diagnosis", "site", "start", "end"} <= set(table)


def test_figures(samples):
    model = EcgPcg(SETTINGS).build().eval()
    rows = torch.arange(0, len(samples), 5)
    probability = torch.linspace(0, 1, len(rows))
    for settings, watermarked in ((dataclasses.replace(SETTINGS, protocol="paper"), True), (SETTINGS, False)):
        figures = EcgPcg(settings).figures(model, samples, rows, probability)
        assert set(figures) == {"test/roc", "test/confusion", "test/attention"}
        for tag, figure in figures.items():
            written = " ".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))
            assert ("selected on test" in written) == watermarked, tag
    middle = samples.table.iloc[int(rows[len(rows) // 2])]["recording"]
    assert middle in written, "attention is drawn over the beat of median probability"


def test_networks_without_attention_have_no_attention_figure(samples):
    model = nn.Linear(1, 1)
    assert TASK.attention_figure(model, samples, torch.tensor(0), "") is None


def test_bfloat16_is_refused_on_a_cpu_for_beats_too_short_for_it(simulated_cache):
    settings = TrainingSettings(model=ModelSettings(width=8, points=100), precision="bfloat16")
    task = EcgPcg(settings)
    samples = task.samples(simulated_cache, torch.device("cpu"))  # evaluation reads them, in float32
    with pytest.raises(UserError, match=r"100 points.*--precision float32"):
        task.for_fold(samples, final_fold(samples.table))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_has_a_gradient_where_a_sample_is_certain(samples, gamma):
    """With a loss of exactly zero the root has none, which is no number times zero."""
    logits = torch.tensor([[20.0, -20.0], [0.0, 1.0]], requires_grad=True)
    task = EcgPcg(dataclasses.replace(SETTINGS, focal_gamma=gamma))
    batch = samples.batch(torch.arange(2)) | {"label": torch.tensor([0, 1])}
    model: Any = lambda *_: logits  # noqa: E731
    loss = task.step(model, batch)[0]["loss"]
    loss.backward()
    right = 1 / (1 + np.exp(-1))
    assert loss.item() == pytest.approx(-np.log(right) * (1 - right) ** gamma / 2, rel=1e-5)
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[1].any()
