"""The task of patients with three views: samples, who is left out, losses, balance, hidden views, tables."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from common.errors import UserError
from datasets.patients import SUPERCLASSES
from datasets.splits import Fold
from learning.distributed import Processes
from systems.ecg_multimodal import explain
from systems.ecg_multimodal import task as task_module
from systems.ecg_multimodal.samples import Patients, read_patients
from systems.ecg_multimodal.settings import (
    MultimodalModelSettings,
    MultimodalTrainingSettings,
    SignalAugmentationSettings,
    defaults,
)
from systems.ecg_multimodal.task import EcgMultimodal, as_network

CPU = torch.device("cpu")
COUNT = 8
NAMES = ("age", "sex", "height")
SMALL = MultimodalModelSettings(width=8, dropout=0.0, modality_dropout=0.5, branch_loss=0.3)
SETTINGS = MultimodalTrainingSettings(model=SMALL)


class FakeCache:
    """Serves what a prepared cache of patients would."""

    path = "somewhere"

    def __init__(self, **changed) -> None:
        self.manifest = {"settings": {"signal_rate": 50.0}}
        generator = np.random.default_rng(0)
        columns: dict[str, Any] = {
            "sample": range(COUNT),
            "recording": [f"r{row}" for row in range(COUNT)],
            "session": [f"p{row // 2}" for row in range(COUNT)],
            "person": [f"p{row // 2}" for row in range(COUNT)],
            "label": [0, 0, 1, 1, 0, 0, 1, 1],
            "diagnosis": "",
            "site": "",
            "start": 0.0,
            "end": 10.0,
            "official_fold": [1, 1, 2, 2, 9, 9, 10, 10],
            **{f"has_{view}": 1 for view in ("image", "signal", "clinical")},
        }
        self.samples = pd.DataFrame(columns | changed)
        self.arrays: dict[str, Any] = {
            "images": generator.integers(0, 256, (COUNT, 64, 160)).astype(np.uint8),
            "signals": generator.normal(size=(COUNT, 2, 200)).astype(np.float32),
        }
        self.clinical = pd.DataFrame(generator.normal(size=(COUNT, 3)), columns=list(NAMES))

    def table(self, name, missing=()):
        recordings = self.samples["recording"]
        return self.samples.copy() if name == "samples" else self.clinical.assign(recording=recordings)

    def array(self, name):
        return self.arrays[name]


def task_of(**changed) -> EcgMultimodal:
    return EcgMultimodal(dataclasses.replace(SETTINGS, model=dataclasses.replace(SMALL, **changed)))


def samples_of(cache: Any = None, task: Any = None, target: str = "normal") -> Patients:
    chosen = (task or task_of()).settings
    place: Any = cache or FakeCache()
    return read_patients(place, target, chosen.model.views, CPU)


def run_of(samples: Patients, count: int) -> Any:
    """Return what a fold is initialized from: it learns from the first samples."""
    return SimpleNamespace(samples=samples, train=torch.arange(count), label="fold 0")


def network_of(task: EcgMultimodal, samples: Patients, seed: int = 0) -> Any:
    """Return a network with its scalers fitted on all samples."""
    torch.manual_seed(seed)
    model = task.build(task.inputs(samples))
    task.initialize(model, run_of(samples, len(samples)))
    return model


# Samples --------------------------------------------------------------------------------------------


def test_batch_has_views_masks_labels_and_shapes():
    batch = samples_of().batch(torch.tensor([5, 0]))
    assert batch["image"].shape == (2, 1, 64, 160)
    assert batch["signal"].shape == (2, 2, 200)
    assert batch["clinical"].shape == (2, 3)
    assert batch["has_image"].dtype == torch.bool
    assert batch["label"].tolist() == [0, 0]
    cache = FakeCache()
    assert np.array_equal(batch["signal"][0].numpy(), cache.arrays["signals"][5])


def test_recordings_without_label_are_left_out_and_views_stay_aligned():
    cache = FakeCache(label=[0, -1, 1, 1, 0, 0, -1, 1])
    samples = samples_of(cache)
    assert samples.table["recording"].tolist() == ["r0", "r2", "r3", "r4", "r5", "r7"]
    assert samples.table["sample"].tolist() == list(range(6))
    assert np.array_equal(samples.views["signal"][1].numpy(), cache.arrays["signals"][2])
    assert samples.label.tolist() == samples.table["label"].tolist()


def test_who_has_none_of_the_views_is_left_out_with_a_warning(capsys):
    cache = FakeCache(has_signal=[0, 1, 1, 1, 1, 1, 1, 1])
    samples = samples_of(cache, task_of(views=("signal",)))
    assert len(samples) == COUNT - 1
    assert "1 recording (r0) has none of signal: they are left out" in capsys.readouterr().out


def test_a_patient_without_any_clinical_value_is_scored_with_a_warning(capsys):
    cache = FakeCache(has_clinical=[0, 1, 1, 1, 1, 1, 1, 1])
    cache.clinical.iloc[0] = np.nan
    task = task_of(views=("clinical",))
    samples = samples_of(cache, task)
    assert "1 recording (r0) has no clinical value" in capsys.readouterr().out
    _, probability = task.step(network_of(task, samples).eval(), samples.batch(torch.arange(COUNT)))
    assert torch.isfinite(probability).all()


def test_superclasses_are_learned_where_there_are_any():
    classes = dict.fromkeys(SUPERCLASSES, 0) | {
        "NORM": [1, 0, 0, 1, 1, 0, 0, 1],
        "MI": [0, 1, 0, 0, 1, 0, 1, 0],
    }
    samples = samples_of(FakeCache(**classes), target="superclasses")
    assert samples.table["recording"].tolist() == ["r0", "r1", "r3", "r4", "r6", "r7"]
    assert samples.label.shape == (6, 5)
    with pytest.raises(UserError, match="no superclasses, which only PTB-XL names"):
        samples_of(target="superclasses")


RHYTHMS = ["sr", "afib", "", "sr", "pace", "sr", "afib", "sr"]


def rhythm_task(**changed) -> EcgMultimodal:
    model = dataclasses.replace(SMALL, **changed)
    return EcgMultimodal(dataclasses.replace(SETTINGS, target="rhythm", model=model))


def test_a_column_of_classes_is_learned_one_of_them_at_a_time():
    task, cache = rhythm_task(modality_dropout=0.0), FakeCache(target_rhythm=RHYTHMS, label=[-1] * COUNT)
    samples = samples_of(cache, target="rhythm")
    assert samples.table["recording"].tolist() == ["r0", "r1", "r3", "r4", "r5", "r6", "r7"]
    assert samples.classes == ("afib", "pace", "sr") and samples.exclusive
    assert samples.table["label"].tolist() == [2, 0, 2, 1, 2, 0, 2], "folds are mixed by class"
    model = network_of(task, samples).eval()
    rows = torch.arange(7)
    named, probability = task.step(model, samples.batch(rows))
    assert probability.shape == (7, 3)
    torch.testing.assert_close(probability.sum(dim=1), torch.ones(7))
    truth = torch.tensor([2, 0, 2, 1, 2, 0, 2])
    expected = -probability[rows, truth].log().mean()
    assert named["fused"].item() == pytest.approx(float(expected), rel=1e-4)
    table = task.predictions(samples, rows.numpy(), probability.detach())
    assert table[["afib", "pace", "sr"]].to_numpy().argmax(axis=1).tolist() == truth.tolist()


def test_weights_make_exclusive_classes_count_the_same():
    samples = samples_of(FakeCache(target_rhythm=RHYTHMS), target="rhythm")
    fold = Fold(0, np.arange(7), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    weight = rhythm_task().for_fold(samples, fold).weight
    assert weight.tolist() == pytest.approx([7 / 12, 7 / 6, 7 / 12, 7 / 3, 7 / 12, 7 / 6, 7 / 12])


def test_several_classes_at_once_are_each_a_yes_or_no():
    samples = samples_of(FakeCache(target_rhythm=["sr+pace", *RHYTHMS[1:]]), target="rhythm")
    assert samples.label[0].tolist() == [0, 1, 1] and not samples.exclusive
    task = rhythm_task()
    probability = task.step(network_of(task, samples).eval(), samples.batch(torch.arange(7)))[1]
    assert not torch.allclose(probability.sum(dim=1), torch.ones(7))


def test_three_classes_have_their_order_and_a_name_is_taken_as_typed():
    three = ["normal", "abnormal", "borderline", "normal", "", "", "normal", "abnormal"]
    samples = samples_of(FakeCache(target_three_classes=three), target="three-classes")
    assert samples.classes == ("normal", "borderline", "abnormal")


@pytest.mark.parametrize(
    ("target", "cells", "message"),
    [
        ("mood", RHYTHMS, "no target mood; it has normal, rhythm"),
        ("rhythm", ["sr"] * COUNT, "fewer than two classes"),
        ("rhythm", ["session", "sr"] * 4, "a class named like a column"),
    ],
)
def test_a_target_that_cannot_be_learned_is_refused(target, cells, message):
    with pytest.raises(UserError, match=message):
        samples_of(FakeCache(target_rhythm=cells), target=target)


def test_another_cohort_has_the_classes_of_the_run_in_their_order():
    samples = samples_of(FakeCache(target_rhythm=RHYTHMS), target="rhythm")
    inputs = samples.describe_views()
    aligned = samples.with_inputs(inputs | {"classes": ["flutter", "sr", "pace", "afib"]})
    assert aligned.label[:2].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    with pytest.raises(UserError, match="these data have pace too"):
        samples.with_inputs(inputs | {"classes": ["sr", "afib"]})


def test_signals_are_varied_in_training_alone():
    augmentation = SignalAugmentationSettings(signal_gain=0.5)
    model = dataclasses.replace(SMALL, views=("signal",))
    task = EcgMultimodal(dataclasses.replace(SETTINGS, model=model, augmentation=augmentation))
    samples = samples_of(task=task)
    network, batch = network_of(task, samples), samples.batch(torch.arange(COUNT))
    with torch.no_grad():
        seen = {task.step(network.train(), batch)[0]["loss"].item() for _ in range(3)}
        same = {task.step(network.eval(), batch)[0]["loss"].item() for _ in range(3)}
    assert (len(seen), len(same)) == (3, 1)
    assert torch.equal(batch["signal"], samples.batch(torch.arange(COUNT))["signal"])


def test_another_cohort_is_aligned_by_the_names_of_its_clinical_values():
    samples = samples_of()
    aligned = samples.with_inputs({"leads": 2, "image_size": [64, 160], "clinical": ["sex", "weight", "age"]})
    clinical = samples.views["clinical"]
    assert torch.equal(aligned.views["clinical"][:, 0], clinical[:, 1])
    assert aligned.views["clinical"][:, 1].isnan().all()
    assert torch.equal(aligned.views["clinical"][:, 2], clinical[:, 0])
    with pytest.raises(UserError, match="trained with leads 12, and these data have 2"):
        samples.with_inputs({"leads": 12, "image_size": [64, 160], "clinical": []})


# Training -------------------------------------------------------------------------------------------


def test_scalers_are_fitted_on_the_training_part_alone():
    task, samples = task_of(), samples_of()
    changed = samples_of()
    changed.views["clinical"][4:] = 1e6
    models = []
    for each in (samples, changed):
        torch.manual_seed(0)
        model = task.build(task.inputs(each))
        task.initialize(model, run_of(each, 4))
        models.append(model.state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_a_network_of_image_weights_is_built_again_without_their_file(tmp_path):
    path = tmp_path / "resnet18.pth"
    task, samples = task_of(image_weights=path), samples_of()
    inputs = task.inputs(samples)
    network: Any = task.build(inputs)
    image = network.branches["image"].network
    torch.save({name: value + 1 for name, value in image.state_dict().items()}, path)
    before = image.conv1.weight.clone()
    task.initialize(network, run_of(samples, COUNT))
    torch.testing.assert_close(image.conv1.weight, before + 1)
    path.unlink()
    again: Any = task_of(image_weights=path).build(inputs)
    again.load_state_dict(network.state_dict())
    assert again.branches["image"].network.conv1.weight.shape == (8, 3, 7, 7)
    plain: Any = task_of().build(task_of().inputs(samples))
    assert plain.branches["image"].network.conv1.weight.shape == (8, 1, 7, 7)


def test_class_weights_count_the_training_part():
    samples = samples_of()
    fold = Fold(0, np.array([0, 1, 2, 4]), np.zeros(0, dtype=np.int64), np.array([3, 5, 6, 7]))
    weighted = task_of().for_fold(samples, fold)
    assert weighted.weight.tolist() == pytest.approx([2 / 3, 2 / 3, 2, 2, 2 / 3, 2 / 3, 2, 2])


def test_loss_is_that_of_the_verdict_and_a_share_of_the_branches():
    task, samples = task_of(modality_dropout=0.0), samples_of()
    model = network_of(task, samples).eval()
    batch = samples.batch(torch.arange(COUNT))
    named, probability = task.step(model, batch)
    truth = batch["label"].float()
    assert named["fused"].item() == pytest.approx(
        float(functional.binary_cross_entropy(probability, truth)), rel=1e-4
    )
    branches = sum(named[f"branch_{view}"].item() for view in ("image", "signal", "clinical"))
    assert named["loss"].item() == pytest.approx(named["fused"].item() + 0.3 * branches, rel=1e-5)


def test_modality_dropout_is_for_training_alone():
    task, samples = task_of(modality_dropout=1.0), samples_of()
    model = network_of(task, samples)
    batch = samples.batch(torch.arange(COUNT))
    with torch.no_grad():
        unchanged = [task.step(model.eval(), batch)[1] for _ in range(2)]
    assert torch.equal(*unchanged)
    seen = {task.step(model.train(), batch)[1].sum().item() for _ in range(4)}
    assert len(seen) > 1


def test_modulation_damps_the_view_that_is_ahead():
    task, samples = task_of(modulation=0.5, modality_dropout=0.0), samples_of()
    model = network_of(task, samples)
    named = {
        f"damped_{view}": torch.tensor(value)
        for view, value in {"image": 1, "signal": 0.5, "clinical": 1}.items()
    }
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    task.after_backward(model, named, Processes())
    network: Any = as_network(model)
    of_view: Any = {name: next(iter(branch.parameters())).grad for name, branch in network.branches.items()}
    assert of_view["signal"].unique().tolist() == [0.5]
    assert of_view["image"].unique().tolist() == [1.0]
    assert network.head[0].weight.grad.unique().tolist() == [1.0]


class OtherProcess(Processes):
    """Two processes, of which the other has factors of 1 and leads."""

    def mean(self, value):
        return (value + 1) / 2

    def share(self, value):
        return 1234


def test_modulation_and_its_noise_are_the_same_in_all_processes():
    task, samples = task_of(modulation=0.5, modulation_noise=True), samples_of()
    named = {f"damped_{view}": torch.tensor(0.5) for view in ("image", "signal", "clinical")}
    found: list[Any] = []
    for seed in (0, 1):  # each process has random numbers of its own
        model = network_of(task, samples)
        torch.manual_seed(seed)
        for weight in model.parameters():
            weight.grad = torch.linspace(-1, 1, weight.numel()).reshape(weight.shape)
        task.after_backward(model, named, OtherProcess())
        found.append(as_network(model).get_parameter("branches.signal.project.0.weight").grad)
    assert torch.equal(*found)
    gradient = torch.linspace(-1, 1, found[0].numel()).reshape(found[0].shape)
    noise = found[0] - 0.75 * gradient
    assert float(noise.std()) == pytest.approx(float(gradient.std()), rel=0.1)
    assert abs(float(noise.mean())) < 0.1


def test_noise_without_modulation_is_refused():
    with pytest.raises(UserError, match="--modulation-noise goes with --modulation"):
        network_of(task_of(modulation_noise=True), samples_of())


def test_gates_branch_losses_and_damping_are_named_for_the_curves():
    task, samples = task_of(modulation=0.3, modality_dropout=0.0), samples_of()
    named, _ = task.step(network_of(task, samples).eval(), samples.batch(torch.arange(COUNT)))
    views = ("image", "signal", "clinical")
    kinds = ("gate", "branch", "damped")
    assert set(named) == {"loss", "fused", *(f"{kind}_{view}" for kind in kinds for view in views)}
    assert sum(float(named[f"gate_{view}"]) for view in views) == pytest.approx(1)
    assert all(value.shape == () for value in named.values())
    late = task_of(fusion="late")
    assert "gate_image" not in late.step(network_of(late, samples), samples.batch(torch.arange(COUNT)))[0]


def test_ahead_is_measured_where_it_is_asked_for():
    samples = samples_of()
    batch = samples.batch(torch.arange(COUNT))
    for strength, expected in ((0.0, False), (0.3, True)):
        task = task_of(modulation=strength)
        named, _ = task.step(network_of(task, samples), batch)
        assert ("damped_image" in named) is expected


# Evaluation --------------------------------------------------------------------------------------------


def test_what_a_hidden_view_holds_reaches_nothing():
    task, samples = task_of(), samples_of()
    model = network_of(task, samples).eval()
    hidden = task.without(samples, "signal")
    _, before = task.step(model, hidden.batch(torch.arange(COUNT)))
    hidden.views["signal"][:] = torch.nan
    _, after = task.step(model, hidden.batch(torch.arange(COUNT)))
    assert torch.equal(before, after)
    assert not torch.equal(before, task.step(model, samples_of().batch(torch.arange(COUNT)))[1])


def test_who_has_nothing_left_gets_no_probability_and_no_row():
    task = task_of(views=("image", "signal"))
    samples = samples_of(FakeCache(has_image=[0, 1, 1, 1, 1, 1, 1, 1]), task)
    hidden = task.without(samples, "signal")
    _, probability = task.step(network_of(task, samples).eval(), hidden.batch(torch.arange(COUNT)))
    assert probability.isnan().tolist() == [True] + [False] * 7
    table = task.predictions(hidden, np.arange(COUNT), probability)
    assert table["recording"].tolist() == [f"r{row}" for row in range(1, COUNT)]


@pytest.mark.parametrize(
    ("changed", "view", "message"),
    [
        ({}, "ecg", "reads image, signal, clinical: ecg cannot"),
        ({"modality_dropout": 0.0}, "image", "--modality-dropout"),
    ],
)
def test_a_view_that_cannot_be_hidden_is_refused(changed, view, message):
    task = task_of(**changed)
    with pytest.raises(UserError, match=message):
        task.without(samples_of(), view)


def test_superclasses_have_a_probability_each():
    classes = dict.fromkeys(SUPERCLASSES, 0) | {"NORM": [1, 0] * 4, "MI": [0, 1] * 4}
    task = EcgMultimodal(dataclasses.replace(SETTINGS, target="superclasses"))
    samples = samples_of(FakeCache(**classes), target="superclasses")
    _, probability = task.step(network_of(task, samples).eval(), samples.batch(torch.arange(COUNT)))
    assert probability.shape == (COUNT, 5)
    table = task.predictions(samples, np.arange(COUNT), probability.detach())
    assert table["probability_MI"].to_numpy() == pytest.approx(probability[:, 1].detach().numpy())
    perfect = samples.label.float()
    assert task.score(samples, torch.arange(COUNT), perfect) == {"auroc": 1.0}
    assert task.threshold(samples, torch.arange(COUNT), perfect) == 0.5


# Settings -------------------------------------------------------------------------------------------


def test_presets():
    paper, small = (defaults(preset) for preset in ("paper", "small"))
    assert (paper.model.width, small.model.width) == (64, 16)
    assert (paper.optimization.learning_rate, paper.optimization.epochs) == (1e-4, 30)
    assert (paper.optimization.batch_size, paper.optimization.early_stop) == (16, 5)
    assert (small.optimization.epochs, small.optimization.schedule) == (15, "one-cycle")
    assert defaults("small", "official").protocol == "official"
    assert defaults("small", "beat").protocol == "patient"


def test_a_run_is_named_after_what_matters():
    assert SETTINGS.variant() == "image+signal+clinical-gate"
    alone = dataclasses.replace(
        SETTINGS, target="superclasses", model=MultimodalModelSettings(views=("signal",))
    )
    assert alone.variant() == "superclasses-signal"


def test_a_network_that_cannot_be_is_refused_in_one_sentence():
    with pytest.raises(UserError, match="width must be a multiple of 8"):
        task_of(width=12).build({"leads": 2, "image_size": [64, 160], "clinical": []})


def test_what_is_frozen_of_imagenet_weights_is_what_the_file_holds():
    task = task_of(image_weights=Path("w.pth"), freeze=("image",))
    network = as_network(task.build(task.inputs(samples_of())))
    branch = network.branches["image"].train()
    network.train()
    assert not any(weight.requires_grad for weight in branch.get_submodule("network").parameters())
    assert all(weight.requires_grad for weight in branch.get_submodule("project").parameters())
    assert not branch.get_submodule("network").training and branch.get_submodule("project").training


def test_a_clinical_value_that_is_the_target_is_not_read(capsys):
    cache = FakeCache(target_gender=["m", "f"] * 4)
    samples = samples_of(cache, target="Gender")
    assert samples.clinical_names == ("age", "height") and samples.classes == ("f", "m")
    assert np.array_equal(samples.views["clinical"].numpy(), cache.clinical[["age", "height"]].astype("f4"))
    assert "sex is the target and a clinical value too" in capsys.readouterr().out
    assert samples_of(cache).clinical_names == NAMES


@pytest.mark.parametrize(("balanced", "start"), [(True, 0.0), (False, np.log(0.25 / 0.75))])
def test_a_patient_is_explained_from_what_is_known_of_nobody_and_in_seconds(balanced, start, monkeypatch):
    """Of the four patients that are learned from here, one is abnormal."""
    seen = Mock(wraps=task_module.explain_patient)
    monkeypatch.setattr(task_module, "explain_patient", seen)
    drawn = Mock(wraps=explain.patient_figure)
    monkeypatch.setattr(explain, "patient_figure", drawn)
    optimization = dataclasses.replace(SETTINGS.optimization, class_weights=balanced)
    task = EcgMultimodal(dataclasses.replace(SETTINGS, optimization=optimization))
    samples = samples_of(FakeCache(label=[0, 0, 0, 1, 0, 1, 0, 1]), task)
    task.figures(network_of(task, samples).eval(), samples, torch.arange(4, 8), torch.rand(4))
    assert seen.call_args.kwargs["empty"] == pytest.approx(start)
    assert drawn.call_args.kwargs["sampling_rate"] == 50
