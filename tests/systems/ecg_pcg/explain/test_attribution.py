"""Explanations whose truth is known: linear networks, networks that read one place, hand-made checkpoints."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from matplotlib.text import Text
from torch import nn

import studies.physionet2016.explanation as benchmark
import systems.ecg_pcg.explain.attribution as explanation
from common.command_line import to_plain
from common.errors import UserError
from datasets.splits import LeakageError, make_folds
from learning.checkpoint import save_checkpoint
from models import NETWORKS, SINGLE_MODALITY, build_model, takes
from systems import registry
from systems.ecg_pcg.explain.cycle import STATES, beat_onsets, over_cycle, share_table
from systems.ecg_pcg.settings import ModelSettings, TrainingSettings
from systems.ecg_pcg.task import EcgPcg

POINTS = 250
CPU = torch.device("cpu")
TASK = EcgPcg()


def settings(protocol: str = "session", **options) -> TrainingSettings:
    model = ModelSettings(**{"width": 8, "points": POINTS, "dropout": 0.0} | options)
    return TrainingSettings(protocol=protocol, model=model, precision="float32")  # type: ignore[arg-type]


def checkpoint_of(cache, model: nn.Module, fold, chosen: TrainingSettings, run: str = "toy") -> Any:
    """Return what training leaves of a fold, as far as explanations read it."""
    return {
        "run": run,
        "task": "ecg-pcg",
        "fold": fold.number,
        "protocol": chosen.protocol,
        "settings": to_plain(chosen),
        "parts": torch.from_numpy(fold.parts(len(cache.table("samples")))),
        "cache": {"identity": cache.identity},
        "model": model.state_dict(),
    }


def folds_of(cache, protocol: str = "session"):
    return make_folds(cache.table("samples"), protocol, 2, 0.0, seed=0)


class Weighted(nn.Module):
    """Log-odds that are a weighted sum of the points of both signals, and 5."""

    ecg: torch.Tensor
    pcg: torch.Tensor

    def __init__(self, ecg: torch.Tensor, pcg: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("ecg", ecg)
        self.register_buffer("pcg", pcg)

    def forward(self, ecg: torch.Tensor, pcg: torch.Tensor) -> torch.Tensor:
        value = (self.ecg * ecg).sum(dim=(1, 2)) + (self.pcg * pcg).sum(dim=(1, 2))
        return torch.stack([-value / 3, 2 * value / 3 + 5], dim=1)


class SystoleOnly(nn.Module):
    """Reads the heart sound in the middle of systole alone, wherever that is in a beat."""

    def forward(self, ecg: torch.Tensor, pcg: torch.Tensor) -> torch.Tensor:
        value = torch.relu(pcg[:, 0, 52:57]).sum(dim=1) + 0 * ecg.sum(dim=(1, 2))
        return torch.stack([torch.zeros_like(value), value], dim=1)


def batch_of(count: int = 5, points: int = POINTS) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    both = torch.ones(count, dtype=torch.bool)
    return {
        "ecg": torch.randn(count, 1, points),
        "pcg": torch.randn(count, 1, points),
        "has_ecg": both,
        "has_pcg": both,
    }


@pytest.fixture
def systole_task(monkeypatch):
    """Let every checkpoint be of a network that reads systole of the heart sound alone."""

    class Task(EcgPcg):
        def build(self, inputs=None):
            return SystoleOnly()

    monkeypatch.setattr(registry, "task_of", lambda _: Task(settings()))


def test_gradients_of_a_linear_network_are_exact():
    torch.manual_seed(1)
    ecg, pcg = torch.randn(2, POINTS)
    batch = batch_of()
    found = explanation.attributions(Weighted(ecg, pcg), batch, ("ecg", "pcg"), steps=3, batch_size=7)
    expected = torch.stack([ecg * batch["ecg"][:, 0], pcg * batch["pcg"][:, 0]], dim=1)
    assert torch.allclose(found["attribution"].float(), expected, atol=1e-5)
    assert found["change"].numpy() == pytest.approx(expected.sum(dim=(1, 2)).numpy(), abs=1e-3)
    assert found["completeness_error"].numpy() == pytest.approx(0, abs=1e-4)


def test_gradients_of_a_product_share_it_evenly():
    """Along the diagonal x y gives half of it to each; the gradient at the end would give all to both."""

    class Product(nn.Module):
        def forward(self, ecg, pcg):
            return torch.stack([torch.zeros(len(ecg)), ecg[:, 0, 3] * pcg[:, 0, 4]], dim=1)

    batch = batch_of()
    found = explanation.attributions(Product(), batch, ("ecg", "pcg"), steps=8, batch_size=64)["attribution"]
    half = batch["ecg"][:, 0, 3] * batch["pcg"][:, 0, 4] / 2
    assert torch.allclose(found[:, 0, 3].float(), half, atol=1e-5)
    assert torch.allclose(found[:, 1, 4].float(), half, atol=1e-5)
    assert found.count_nonzero() == 2 * len(half)


@pytest.mark.parametrize("name", NETWORKS)
def test_attributions_of_every_network_add_up_to_the_change_of_its_log_odds(name):
    torch.manual_seed(0)
    model = build_model(name, width=8, kernel_size=7, dropout=0.5).train()
    for _ in range(3):  # statistics of batches that differ from those of one beat
        model(*(3 * torch.randn(8, 1, POINTS) + 1 for _ in range(2)))
    for layer in model.modules():
        if isinstance(layer, nn.Linear):  # so that the log-odds change by more than rounding
            layer.weight.data *= 3
    batch, read = batch_of(3), takes(name).modalities
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.eval()
    found = explanation.attributions(model, batch, read, steps=64, batch_size=64)
    with torch.no_grad():
        end, start = (
            model(scale * batch["ecg"], scale * batch["pcg"]).float().diff(dim=1)[:, 0] for scale in (1, 0)
        )
    assert found["attribution"].shape == (3, 1 if name in SINGLE_MODALITY else 2, POINTS)
    assert found["change"].numpy() == pytest.approx((end - start).numpy(), abs=1e-4)
    total = found["attribution"].sum(dim=(1, 2)).numpy()
    assert total == pytest.approx((end - start).numpy(), abs=0.05 * float((end - start).abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_networks_with_absence_tokens_are_reported_which_signals_are_there():
    torch.manual_seed(0)
    model = build_model("pacfnet", width=8, kernel_size=7, dropout=0.0, absence_tokens=True).eval()
    batch = batch_of(4)
    batch["has_ecg"] = torch.tensor([True, False, True, False])
    found = explanation.attributions(model, batch, ("ecg", "pcg"), steps=8, batch_size=16)["attribution"]
    assert found[:, 0].abs().sum(dim=1).gt(0).tolist() == [True, False, True, False]
    assert found[:, 1].abs().sum(dim=1).gt(0).all()


def test_all_attribution_of_a_network_that_reads_systole_is_in_systole(simulated_cache, systole_task):
    """Points 52 to 57 of 250 are in systole of every simulated beat: 0.208 to 0.228 of the cycle."""
    onsets = beat_onsets(simulated_cache.table("samples"), simulated_cache.table("events"))
    shares = (onsets[:, 1:3] - onsets[:, :1]) / (onsets[:, 4:] - onsets[:, :1])
    assert (shares[:, 0] < 0.208).all() and (shares[:, 1] > 0.228).all()
    folds = folds_of(simulated_cache)
    content = [checkpoint_of(simulated_cache, SystoleOnly(), fold, settings()) for fold in folds]
    beats = explanation.explain_folds(content, simulated_cache, beats=3, steps=4, batch_size=64)
    table = share_table(over_cycle(beats, benchmark.axis_of(simulated_cache)), draws=0)
    found = table[table["quantity"] == "attribution"].set_index(["signal", "state"])["share"]
    assert found["pcg", "systole"] == pytest.approx(1)
    assert [found["pcg", name] for name in STATES if name != "systole"] == pytest.approx([0, 0, 0])
    assert [found["ecg", name] for name in STATES] == pytest.approx([0] * 4)
    assert beats.table["completeness_error"].abs().max() < 1e-3


def test_each_beat_is_explained_by_the_fold_that_did_not_see_it(simulated_cache, systole_task):
    folds = folds_of(simulated_cache)
    content = [checkpoint_of(simulated_cache, SystoleOnly(), fold, settings()) for fold in folds]
    beats = explanation.explain_folds(content, simulated_cache, beats=3, steps=2)
    for fold in folds:
        rows = beats.table.loc[beats.table["fold"] == fold.number, "sample"]
        assert len(rows) and set(rows) <= set(fold.test)
    counts = beats.table["recording"].value_counts()
    there = simulated_cache.table("samples")["recording"].value_counts()
    assert counts.to_dict() == there.clip(upper=3).to_dict()
    samples = EcgPcg(settings()).samples(simulated_cache, CPU)
    assert np.array_equal(beats.signals["pcg"], samples.pcg[beats.table["sample"].tolist(), 0])
    assert np.array_equal(beats.looks["amplitude"]["ecg"], np.abs(beats.signals["ecg"]))
    assert "attention" not in beats.looks


def test_each_fold_has_weights_of_its_own(simulated_cache, monkeypatch):
    """Fold k adds up the ECG k + 1 times, so the log-odds of its beats change by that."""

    class Task(EcgPcg):
        def build(self, inputs=None):
            return Weighted(torch.zeros(POINTS), torch.zeros(POINTS))

    monkeypatch.setattr(registry, "task_of", lambda _: Task(settings()))
    content = [
        checkpoint_of(
            simulated_cache,
            Weighted(torch.full([POINTS], fold.number + 1), torch.zeros(POINTS)),
            fold,
            settings(),
        )
        for fold in folds_of(simulated_cache)
    ]
    beats = explanation.explain_folds(content, simulated_cache, beats=2, steps=2)
    expected = (beats.table["fold"] + 1) * beats.signals["ecg"].sum(axis=1)
    assert beats.table["change"].tolist() == pytest.approx(expected.tolist(), abs=1e-2)
    assert beats.table["fold"].nunique() == 2


def test_a_network_is_explained_as_it_evaluates(simulated_cache):
    """Fixed statistics, no dropout: the same again, for a beat alone as among others, nothing learned."""
    samples = EcgPcg(settings()).samples(simulated_cache, CPU)
    torch.manual_seed(0)
    model = build_model("pacfnet", width=8, kernel_size=7, dropout=0.5).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rows = np.arange(4)
    found = explanation.explain_rows(model, samples, rows, ("ecg", "pcg"), 4, 16, "toy")
    alone = explanation.explain_rows(model.train(), samples, rows[2:3], ("ecg", "pcg"), 4, 16, "toy")
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(found, 4)
    for name, values in alone.items():
        assert torch.allclose(values, found[name][2:3], atol=1e-5), name
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_beats_are_evenly_spaced():
    rows = np.arange(100, 112)
    assert explanation.evenly_spaced(rows, 3).tolist() == [102, 106, 110]
    assert explanation.evenly_spaced(rows, 1).tolist() == [106]
    assert explanation.evenly_spaced(rows, 50).tolist() == rows.tolist()


def test_a_fold_that_leaks_is_refused(simulated_cache):
    fold = folds_of(simulated_cache)[0]
    leaking = dataclasses.replace(fold, train=fold.train[:-1], test=np.append(fold.test, fold.train[-1]))
    content = checkpoint_of(simulated_cache, SystoleOnly(), leaking, settings())
    samples = EcgPcg(settings()).samples(simulated_cache, CPU)
    with pytest.raises(LeakageError, match="in both train and test"):
        explanation.choose_beats([content], samples, np.ones(len(samples), dtype=bool), 3)


def test_only_beats_with_known_states_and_all_signals_are_explained(simulated_cache):
    samples = EcgPcg(settings()).samples(simulated_cache, CPU)
    onsets = np.ones((len(samples), 5))
    onsets[2, 3] = np.nan
    has_ecg = torch.ones(len(samples), dtype=torch.bool)
    has_ecg[4] = False
    samples = dataclasses.replace(samples, has_ecg=has_ecg)
    both = explanation.explainable(samples, onsets, ("ecg", "pcg"))
    assert np.flatnonzero(~both).tolist() == [2, 4]
    assert np.flatnonzero(~explanation.explainable(samples, onsets, ("pcg",))).tolist() == [2]
    content = checkpoint_of(simulated_cache, SystoleOnly(), folds_of(simulated_cache)[0], settings())
    with pytest.raises(UserError, match="0 test beats have annotated heart states"):
        explanation.choose_beats([content], samples, np.zeros(len(samples), dtype=bool), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "ecg-multimodal"}, "name a run of task ecg-pcg"),
        ({"settings": to_plain(settings(model="linear"))}, "name it with --linear"),
        ({"fold": -1}, "final fit on everything"),
        ({"cache": {"identity": "0" * 64}}, "not trained from"),
    ],
)
def test_checkpoints_that_cannot_be_explained_are_refused(simulated_cache, change, message):
    content = checkpoint_of(simulated_cache, SystoleOnly(), folds_of(simulated_cache)[0], settings())
    with pytest.raises(UserError, match=message):
        explanation.explain_folds([content | change], simulated_cache)


def test_maps_stand_where_strided_convolutions_centre_them():
    """Two values of a map of a beat of ten points are of points 0 and 5; after the last there is no other."""
    found = explanation.at_points(torch.tensor([[[1.0, 2.0]]]), 10)
    assert found[0, 0].tolist() == pytest.approx([1, 1.2, 1.4, 1.6, 1.8, 2, 2, 2, 2, 2])
    full = torch.rand(2, 2, 10)
    assert torch.equal(explanation.at_points(full, 10), full)


def test_attention_is_the_mean_over_levels():
    torch.manual_seed(0)
    model = build_model("pacfnet", width=8, kernel_size=7, dropout=0.0).eval()
    for number, fusion in enumerate(model.fusions.values()):  # type: ignore[operator]
        last = fusion.spatial.maps[-2]
        last.weight.data.zero_()
        last.bias.data = torch.logit(torch.tensor([0.1, 0.2]) * (number + 1))
    found = explanation.attention(model, batch_of(3))["attention"]
    assert found.shape == (3, 2, POINTS)
    assert found[:, 0].numpy() == pytest.approx(0.25) and found[:, 1].numpy() == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["concatenation", "ecg-network", "cross-attention", "late-fusion"])
def test_networks_without_spatial_attention_have_none(name):
    assert (
        explanation.attention(build_model(name, width=8, kernel_size=7, dropout=0.0).eval(), batch_of(2))
        == {}
    )


def linear_content(scale: float, fitted: tuple[bool, bool] = (True, True)) -> Any:
    model = build_model("linear")
    state = model.state_dict()
    state["pcg.weight"] = scale * torch.arange(2244, dtype=torch.float64)
    state["ecg.weight"] = scale * torch.arange(13, dtype=torch.float64)
    state["pcg.fitted"], state["ecg.fitted"] = (torch.tensor(value) for value in fitted)
    return {"run": "linear", "model": state}


def test_coefficients_of_the_linear_model_are_means_over_folds():
    found = explanation.linear_coefficients([linear_content(1.0), linear_content(3.0)])
    assert found["pcg"].shape == (3, 22, 34)
    assert found["pcg"][1, 2, 3] == 2 * (22 * 34 + 2 * 34 + 3)
    assert found["ecg"].tolist() == (2.0 * np.arange(13)).tolist()
    assert set(explanation.linear_coefficients([linear_content(1.0, (True, False))])) == {"pcg"}
    with pytest.raises(UserError, match="no linear model"):
        explanation.linear_coefficients([linear_content(1.0) | {"model": SystoleOnly().state_dict()}])


@pytest.fixture(scope="module")
def runs(simulated_cache, tmp_path_factory):
    """Folders of three runs: networks with random weights, and a linear model."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for run, protocol, model in (
        ("toy-beat", "paper", "pacfnet"),
        ("toy-session", "session", "concatenation"),
    ):
        chosen = settings(protocol, model=model)
        for fold in folds_of(simulated_cache, protocol)[: 1 if protocol == "paper" else 2]:
            content = checkpoint_of(simulated_cache, EcgPcg(chosen).build(), fold, chosen, run)
            save_checkpoint(folder / run / fold.name / "best.pt", content)
    content = linear_content(1.0) | {"protocol": "session"}
    save_checkpoint(folder / "toy-linear" / "fold_0" / "best.pt", content)
    return folder


def command(runs, simulated_cache, folder, *options):
    return [
        *("--beat", "toy-beat", "--session", "toy-session", "--linear", "toy-linear"),
        *("--checkpoint-dir", str(runs), "--cache", str(simulated_cache.path), "--results-dir", str(folder)),
        *("--beats", "1", "--steps", "2", "--bootstrap-draws", "20", "--device", "cpu", "--threads", "1"),
        *options,
    ]


def test_the_command_writes_figures_and_table(runs, simulated_cache, tmp_path, monkeypatch):
    drawn = {}
    save = benchmark.save_figure
    monkeypatch.setattr(
        benchmark, "save_figure", lambda figure, path: drawn.update({path.stem: figure}) or save(figure, path)
    )
    table = benchmark.main(command(runs, simulated_cache, tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "explanation.csv",
        "explanation.png",
        "linear_map.png",
    ]
    written = pd.read_csv(tmp_path / "explanation.csv")
    assert written["share"].tolist() == pytest.approx(table["share"].tolist(), abs=1e-3)
    found = written.groupby(["run", "quantity"])["share"].sum()
    assert set(found.index) == {
        *(("toy-beat", quantity) for quantity in ("attribution", "amplitude", "attention")),
        *(("toy-session", quantity) for quantity in ("attribution", "amplitude")),
    }
    assert found.to_numpy() == pytest.approx(2, abs=0.01), "of states, and of whole beats"
    assert set(written["folds"]) == {1, 2}
    for name, figure in drawn.items():
        assert imread(tmp_path / f"{name}.png").shape[1] == 900
        words = [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]
        assert any("simulated data" in text for text in words)
        assert set(STATES) <= set(words)
    words = [text.get_text() for text in drawn["explanation"].findobj(Text)]
    assert "selected on test; simulated data" in words or "simulated data; selected on test" in words
    assert "no spatial attention" in words
    assert not any("selected" in text.get_text() for text in drawn["linear_map"].findobj(Text))


def texts_of(axes) -> list[Text]:
    """Return the texts of axes but the numbers beside their ticks."""
    of_legend = axes.get_legend().get_texts() if axes.get_legend() else []
    return [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts, *of_legend]


def test_no_text_of_the_figures_overlaps(runs, simulated_cache, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(benchmark, "save_figure", lambda figure, path: drawn.append(figure))
    benchmark.main(command(runs, simulated_cache, tmp_path))
    assert len(drawn) == 2
    for figure in drawn:
        figure.canvas.draw()
        texts = [*figure.texts, *(text for axes in figure.axes for text in texts_of(axes))]
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text().strip()]
        for place, (word, box) in enumerate(boxes):
            assert box.x0 >= 0 and box.x1 <= 900, word
            assert [other for other, second in boxes[:place] if box.overlaps(second)] == [], word


def test_runs_under_another_protocol_are_refused(runs, simulated_cache, tmp_path):
    with pytest.raises(
        UserError, match=r"toy-session was trained under protocol session: name a run under beat"
    ):
        benchmark.main(command(runs, simulated_cache, tmp_path, "--beat", "toy-session"))
    with pytest.raises(UserError, match=r"trained under protocol paper: name a run under session"):
        benchmark.main(command(runs, simulated_cache, tmp_path, "--session", "toy-beat"))
    assert not list(tmp_path.iterdir())


def test_no_linear_model_no_map(runs, simulated_cache, tmp_path):
    benchmark.main(command(runs, simulated_cache, tmp_path, "--linear", "", "--beat", "toy-beat"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["explanation.csv", "explanation.png"]
