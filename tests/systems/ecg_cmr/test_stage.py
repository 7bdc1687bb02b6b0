"""The stages of ECG and cardiac MRI: who takes part, what comes from parents, what is kept apart."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import training
from common.errors import UserError
from datasets.cache import Cache
from datasets.splits import Fold
from systems import registry
from systems.base.parents import find_parent, lineage, refuse_known
from systems.ecg_cmr.contrast.task import EcgCmrContrast, shuffled_pairs
from systems.ecg_cmr.mae.task import CmrMae, EcgMae
from systems.ecg_cmr.phenotypes.task import EcgPhenotypes, correlation
from systems.ecg_cmr.samples import Pairs, read_pairs
from systems.ecg_cmr.settings import (
    ENCODER_SIZES,
    CmrMaeSettings,
    ContrastSettings,
    EcgMaeSettings,
    EncoderSettings,
    MaskingSettings,
    PhenotypeSettings,
)
from systems.ecg_cmr.stage import (
    ecg_encoder,
    encoders_in,
    patch_length,
    refuse_other_ecgs,
    take_encoder,
)

CPU = torch.device("cpu")
COUNT, LEADS, POINTS, FRAMES, SIZE = 12, 12, 200, 4, 16
SIZES = EncoderSettings(width=16, depth=1, heads=2, patch_seconds=0.4, patch_pixels=8)
MASKING = MaskingSettings(mask_ratio=0.5, decoder_width=16, decoder_depth=1)
SETTINGS: dict[str, Any] = {
    "ecg-mae": EcgMaeSettings(encoder=SIZES, masking=MASKING),
    "cmr-mae": CmrMaeSettings(encoder=SIZES, masking=MASKING),
    "ecg-cmr-contrast": ContrastSettings(encoder=SIZES, dimension=8),
    "ecg-phenotypes": PhenotypeSettings(encoder=SIZES),
}
ROWS = torch.arange(COUNT)


def table(**changed: Any) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "sample": np.arange(COUNT),
        "recording": [f"r{row}" for row in range(COUNT)],
        "session": [f"p{row}" for row in range(COUNT)],
        "person": [f"p{row}" for row in range(COUNT)],
        "label": 0,
        "has_ecg": 1,
        "has_cmr": 1,
    }
    return pd.DataFrame(columns | changed)


def pairs(**changed: Any) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    targets = {
        "indicators": torch.randn(COUNT, 2, generator=generator) * 10 + 60,
        "diseases": (torch.arange(COUNT) % 2).float().unsqueeze(1),
        "covariates": torch.randn(COUNT, 1, generator=generator),
    }
    content: dict[str, Any] = {
        "table": table(),
        "ecg": torch.randn(COUNT, LEADS, POINTS, generator=generator),
        "lead_present": torch.ones(COUNT, LEADS, dtype=torch.bool),
        "cmr": torch.randint(0, 256, (COUNT, FRAMES, SIZE, SIZE), generator=generator).to(torch.uint8),
        "has": {name: torch.ones(COUNT, dtype=torch.bool) for name in ("ecg", "cmr")},
        "targets": targets,
        "names": {"indicators": ("lv_edv", "mass"), "diseases": ("dilated",), "covariates": ("age",)},
        "ecg_rate": 50.0,
    }
    return Pairs(**(content | changed))


def fold(train=range(8), validation=(8, 9), test=(10, 11)) -> Fold:
    rows = [np.array(part, dtype=np.int64) for part in (train, validation, test)]
    return Fold(0, rows[0], rows[1], rows[2])


def new(name: str, samples: Pairs, settings: Any = None) -> tuple[Any, Any]:
    """Return a task and a network of it, the same each time."""
    settings = settings or SETTINGS[name]
    task = registry.make_task(name, settings)
    torch.manual_seed(1)
    return task, task.build(task.inputs(samples))


class FakeCache(Cache):
    """Serves what a prepared cache of pairs would."""

    def __init__(self, **changed: Any) -> None:
        targets = {"indicators": ["lv_edv"], "diseases": [], "covariates": []}
        self.path = Path("somewhere")
        self.manifest = {"targets": targets, "settings": {"ecg_rate": 50.0}}
        self.samples = table(**changed)

    def table(self, name, missing=()):
        targets = pd.DataFrame({"recording": self.samples["recording"], "lv_edv": np.arange(COUNT) * 10.0})
        return {"samples": self.samples, "targets": targets}[name]

    def array(self, name):
        shapes = {
            "ecg": ((COUNT, LEADS, POINTS), np.float32),
            "lead_present": ((COUNT, LEADS), np.uint8),
            "cmr": ((COUNT, FRAMES, SIZE, SIZE), np.uint8),
        }
        shape, kind = shapes[name]
        numbers = np.arange(COUNT).reshape(-1, *[1] * (len(shape) - 1))
        return np.broadcast_to(numbers, shape).astype(kind)


# Who takes part ---------------------------------------------------------------------------------------


def test_each_stage_takes_the_patients_who_have_what_it_reads():
    cache = FakeCache(has_ecg=[0] * 3 + [1] * 9, has_cmr=[1] * 9 + [0] * 3)
    found = {
        name: registry.make_task(name, settings).samples(cache, CPU).table["recording"].tolist()
        for name, settings in SETTINGS.items()
    }
    everyone = [f"r{row}" for row in range(COUNT)]
    assert found["ecg-mae"] == found["ecg-phenotypes"] == everyone[3:]
    assert found["cmr-mae"] == everyone[:9]
    assert found["ecg-cmr-contrast"] == everyone[3:9]


def test_rows_that_are_left_keep_their_own_signals_and_targets():
    samples = read_pairs(FakeCache(has_ecg=[0, 1] * 6), ("ecg", "cmr"), CPU)
    batch = samples.batch(torch.tensor([0, 2]))
    assert batch["ecg"][:, 0, 0].tolist() == [1, 5]
    assert batch["indicators"][:, 0].tolist() == [10, 50]
    assert batch["cmr"][:, 0, 0, 0].tolist() == pytest.approx([1 / 255, 5 / 255])


def test_what_a_stage_does_not_read_takes_no_memory():
    samples = read_pairs(FakeCache(), ("ecg",), CPU)
    assert samples.cmr.shape == (COUNT, FRAMES, SIZE, SIZE) and not samples.cmr.any()
    assert samples.cmr.untyped_storage().nbytes() == 1


def test_nobody_with_a_cine_is_said():
    with pytest.raises(UserError, match="No patient of somewhere has a cine"):
        read_pairs(FakeCache(has_cmr=0), ("cmr",), CPU)


def test_another_cache_is_brought_to_the_columns_that_a_network_knows():
    samples = pairs()
    inputs = samples.describe_inputs() | {"indicators": ["mass", "strain"]}
    found = samples.with_inputs(inputs)
    assert torch.equal(found.targets["indicators"][:, 0], samples.targets["indicators"][:, 1])
    assert found.targets["indicators"][:, 1].isnan().all()
    with pytest.raises(UserError, match="trained with 500 samples, and these data have 200"):
        samples.with_inputs(inputs | {"samples": 500})


# Steps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_gives_a_loss_to_learn_from_and_a_row_of_predictions_a_patient(name):
    samples = pairs()
    task, model = new(name, samples)
    named, predicted = task.step(model, samples.batch(ROWS[:6]))
    named["loss"].backward()
    gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    assert predicted.shape == (6, len(task.predicted(samples)))
    found = task.predictions(samples, np.arange(6), predicted.detach().float())
    assert found["recording"].tolist() == [f"r{row}" for row in range(6)]


@pytest.mark.parametrize("name", ["ecg-mae", "cmr-mae"])
def test_evaluation_hides_the_same_each_time_and_training_does_not(name):
    samples = pairs()
    task, model = new(name, samples)

    def loss() -> float:
        return task.step(model, samples.batch(ROWS))[0]["loss"].item()

    assert loss() != loss()
    model.eval()
    assert loss() == loss()


def test_the_mean_of_the_lead_has_the_error_that_is_worked_out_by_hand():
    """Leads of 1 and 3 in turn: their mean 2 is wrong by 1 everywhere, whatever is hidden."""
    ecg = torch.tensor([1.0, 3.0]).repeat(POINTS // 2).expand(COUNT, LEADS, POINTS).clone()
    samples = pairs(ecg=ecg)
    task, model = new("ecg-mae", samples)
    _, scores = task.step(model.eval(), samples.batch(ROWS))
    assert scores[:, 2].tolist() == pytest.approx([1.0] * COUNT)


def test_a_cine_that_is_reconstructed_is_drawn_beside_what_was_seen():
    samples = pairs()
    task, model = new("cmr-mae", samples)
    figures = task.figures(model, samples, ROWS[-2:], torch.zeros(2, 3))
    shown = [np.asarray(axes.images[0].get_array()) for axes in figures["test/reconstruction"].axes]
    assert np.array_equal(shown[0], samples.batch(ROWS[-2:-1])["cmr"][0, 0].numpy())
    assert (shown[8] == 0.5).any() and (shown[8] == shown[0]).any()


def test_recall_of_pairs_that_are_alike_is_one_and_its_multiple_of_chance_is_stated():
    samples = pairs(table=table(session=[f"p{row}" for row in range(COUNT)]))
    task = EcgCmrContrast(SETTINGS["ecg-cmr-contrast"])
    same = torch.eye(COUNT)
    scores = task.score(samples, ROWS, torch.cat([same, same], dim=1))
    assert scores == {"recall_at_10": 1.0, "times_chance": pytest.approx(12 / 10)}


def test_shuffled_pairs_leave_no_training_pair_and_do_not_touch_the_test_part():
    samples, parts = pairs(), fold()
    settings: Any = dataclasses.replace(SETTINGS["ecg-cmr-contrast"], shuffle_pairs=True)
    task = EcgCmrContrast(settings)
    shuffled = task.for_fold(samples, parts)
    same = (shuffled.cmr == samples.cmr).flatten(1).all(dim=1)
    assert not same[:10].any() and same[10:].all()
    both = [values.cmr[:10].sum(dim=(1, 2, 3)).sort().values for values in (shuffled, samples)]
    assert torch.equal(*both), "the same cines, beside others"


# Targets and labels -----------------------------------------------------------------------------------


def test_indicators_come_back_in_their_units_and_the_truth_lies_beside():
    samples = pairs()
    task, model = new("ecg-phenotypes", samples)
    run: Any = SimpleNamespace(
        samples=samples, train=ROWS[:8], metadata={"parts": np.zeros(COUNT)}, label="fold 0"
    )
    task.initialize(model, run)
    _, predicted = task.step(model.eval(), samples.batch(ROWS))
    known = samples.targets["indicators"][:8]
    assert (predicted[:, :2].mean(dim=0) - known.mean(dim=0)).abs().max() < 3 * known.std(dim=0).max()
    assert ((predicted[:, 2] > 0) & (predicted[:, 2] < 1)).all()
    found = task.predictions(samples, np.array([3, 11]), predicted[[3, 11]].detach())
    assert found["true_lv_edv"].tolist() == pytest.approx(samples.targets["indicators"][[3, 11], 0].tolist())


def test_what_is_not_known_of_a_patient_is_not_learned_from():
    samples = pairs()
    samples.targets["indicators"][2] = torch.nan
    task, model = new("ecg-phenotypes", samples)
    model.eval()
    alone, _ = task.step(model, samples.batch(torch.tensor([0, 1])))
    beside, _ = task.step(model, samples.batch(torch.tensor([0, 1, 2])))
    assert alone["indicator_loss"].item() == pytest.approx(beside["indicator_loss"].item(), rel=1e-5)


def test_a_label_fraction_keeps_whole_patients_of_the_training_part_only():
    samples = pairs(table=table(session=[f"p{row // 2}" for row in range(COUNT)]))
    settings = dataclasses.replace(SETTINGS["ecg-phenotypes"], label_fraction=0.5)
    task = EcgPhenotypes(settings)
    less = task.limited(samples, fold())
    assert len(less.train) == 4 and set(less.train) < set(range(8))
    assert samples.table["session"].iloc[less.train].nunique() == 2
    assert less.test.tolist() == [10, 11] and less.validation.tolist() == [8, 9]
    again = task.limited(samples, fold())
    assert again.train.tolist() == less.train.tolist()
    with pytest.raises(UserError, match="--label-fraction must be above 0"):
        EcgPhenotypes(dataclasses.replace(settings, label_fraction=0.0)).limited(samples, fold())


def test_the_patients_of_a_smaller_fraction_are_among_those_of_a_larger_one():
    samples = pairs()
    kept = []
    for share in (0.25, 0.5, 1.0):
        settings = dataclasses.replace(SETTINGS["ecg-phenotypes"], label_fraction=share)
        kept.append(set(EcgPhenotypes(settings).limited(samples, fold()).train.tolist()))
    assert kept[0] < kept[1] < kept[2]


def test_correlation_of_what_is_known():
    truth = np.array([1.0, 2.0, 3.0, np.nan])
    assert correlation(truth, np.array([2.0, 4.0, 6.0, 0.0])) == pytest.approx(1.0)
    assert np.isnan(correlation(truth[:2], truth[:2]))


def test_layers_learn_slower_the_deeper_they_lie_only_when_they_start_from_a_parent(tmp_path):
    samples = pairs()
    task, model = new("ecg-phenotypes", samples)
    assert task.parameter_groups(model) is None
    settings = dataclasses.replace(SETTINGS["ecg-phenotypes"], init_ecg=tmp_path)
    groups = registry.make_task("ecg-phenotypes", settings).parameter_groups(model)
    assert groups is not None
    rates = sorted({group["lr"] for group in groups})
    assert len(rates) > 1 and rates[-1] == pytest.approx(settings.optimization.learning_rate)


# Parents ----------------------------------------------------------------------------------------------


def checkpoint_of(name: str, model, *, known=("p0", "p1"), parents=()) -> dict:
    return {
        "task": name,
        "run": "before",
        "settings": {"reads": "ecg"},
        "model": model.state_dict(),
        "trained_on": {"session": list(known)},
        "parents": [{"session": list(people)} for people in parents],
    }


@pytest.mark.parametrize(
    ("parent", "child", "kind"),
    [
        ("ecg-mae", "ecg-cmr-contrast", "ecg"),
        ("cmr-mae", "ecg-cmr-contrast", "cmr"),
        ("ecg-mae", "ecg-phenotypes", "ecg"),
        ("ecg-cmr-contrast", "ecg-phenotypes", "ecg"),
    ],
)
def test_an_encoder_is_taken_from_the_stage_before(parent, child, kind):
    samples = pairs()
    source, before = new(parent, samples)
    torch.manual_seed(2)
    target, model = new(child, samples)
    encoder = target.encoder_of(model, kind)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(1.0)
    take_encoder(encoder, checkpoint_of(parent, before), kind, Path("there"))
    for one, other in zip(source.encoder_of(before, kind).parameters(), encoder.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_encoder_of_the_other_kind_or_another_size_is_refused():
    samples = pairs()
    _, of_cines = new("cmr-mae", samples)
    task, model = new("ecg-phenotypes", samples)
    with pytest.raises(UserError, match="has no encoder of the ECG"):
        take_encoder(task.encoder_of(model, "ecg"), checkpoint_of("cmr-mae", of_cines), "ecg", Path("there"))
    wider = EcgMaeSettings(encoder=dataclasses.replace(SIZES, width=32), masking=MASKING)
    _, before = new("ecg-mae", samples, wider)
    with pytest.raises(UserError, match=r"has another size: give the same --encoder-size"):
        take_encoder(task.encoder_of(model, "ecg"), checkpoint_of("ecg-mae", before), "ecg", Path("there"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ecg_rate": 500.0}, r"in 500\.0 Hz, and this run has 50\.0 Hz"),
        ({"ecg_unit": "z-score"}, "in z-score"),
    ],
)
def test_an_encoder_of_ecgs_of_another_rate_or_unit_is_refused(changed, message):
    inputs = {"ecg_rate": 50.0}
    run: Any = SimpleNamespace(metadata={"inputs": inputs})
    refuse_other_ecgs({"inputs": inputs}, Path("there"), run)
    with pytest.raises(UserError, match=message):
        refuse_other_ecgs({"inputs": inputs | changed}, Path("there"), run)


def test_an_encoder_goes_where_its_axis_is_read():
    samples = pairs()
    long_run = dataclasses.replace(SETTINGS["cmr-mae"], axis="long")
    both = dataclasses.replace(SETTINGS["ecg-cmr-contrast"], axis="both")
    _, before = new("cmr-mae", samples, long_run)
    content = checkpoint_of("cmr-mae", before) | {"settings": dataclasses.asdict(long_run)}
    task, model = new("ecg-cmr-contrast", samples, both)
    with torch.no_grad():
        for weight in before.encoder.parameters():
            weight.add_(1.0)
    take_encoder(task.encoder_of(model, "long_axis"), content, "long_axis", Path("there"))
    weights = zip(before.encoder.parameters(), model.long_axis_encoder.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    with pytest.raises(UserError, match="has no encoder of the CMR"):
        take_encoder(task.encoder_of(model, "cmr"), content, "cmr", Path("there"))


def test_a_contrastive_run_has_the_encoders_of_its_axes():
    found = {
        axis: encoders_in({"task": "ecg-cmr-contrast", "settings": settings})
        for axis, settings in {"before": {}, "long": {"axis": "long"}, "both": {"axis": "both"}}.items()
    }
    short = {"ecg": "ecg_encoder.", "cmr": "cmr_encoder."}
    assert found["before"] == short
    assert found["long"] == {"ecg": "ecg_encoder.", "long_axis": "cmr_encoder."}
    assert found["both"] == short | {"long_axis": "long_axis_encoder."}


def with_long_axis(without: int = 3) -> Pairs:
    samples = pairs()
    there = torch.arange(COUNT) >= without
    return dataclasses.replace(samples, long_axis=255 - samples.cmr, has={**samples.has, "long_axis": there})


@torch.no_grad()
def test_both_axes_add_their_losses_and_a_missing_long_axis_counts_for_nothing():
    samples = with_long_axis()
    settings = dataclasses.replace(SETTINGS["ecg-cmr-contrast"], axis="both", augment=False)
    task, model = new("ecg-cmr-contrast", samples, settings)
    model.eval()
    losses, predictions = task.step(model, samples.batch(ROWS))
    assert float(losses["loss"]) == pytest.approx(float(losses["short_axis"] + losses["long_axis"]))
    assert predictions.shape == (COUNT, 3 * 8)
    assert predictions[:3, 16:].isnan().all() and predictions[3:].isfinite().all()
    assert samples.long_axis is not None
    changed = samples.long_axis.clone()
    changed[:3] = 0  # what is not there
    other = dataclasses.replace(samples, long_axis=changed)
    assert float(task.step(model, other.batch(ROWS))[0]["loss"]) == float(losses["loss"])
    known = task.step(model, samples.batch(ROWS[3:]))[0]["long_axis"]
    assert float(known) == pytest.approx(float(losses["long_axis"]), rel=1e-4)
    names = ("recall_at_10", "times_chance")
    expected = {f"{axis}{name}" for axis in ("", "long_axis_") for name in names}
    assert set(task.score(samples, ROWS, predictions)) == expected
    assert len(task.predicted(samples)) == 24


def test_shuffled_pairs_take_both_axes_and_what_there_is_of_another_patient():
    samples = with_long_axis()
    shuffled = shuffled_pairs(samples, fold())
    rows = list(range(10))
    partner = [(row - 5) % 10 for row in rows]
    for name in ("cmr", "long_axis"):
        assert torch.equal(getattr(shuffled, name)[rows], getattr(samples, name)[partner])
        assert torch.equal(getattr(shuffled, name)[10:], getattr(samples, name)[10:])
    assert torch.equal(shuffled.has["long_axis"][rows], samples.has["long_axis"][partner])
    assert shuffled.has["ecg"].all()


@pytest.mark.parametrize("axis", ["long", "both"])
def test_an_axis_that_was_not_prepared_is_refused(axis):
    with pytest.raises(UserError, match=f"without the long axis, which --axis {axis} reads"):
        read_pairs(FakeCache(), ("ecg", "cmr"), CPU, axis)


def test_a_parent_that_knows_a_test_patient_is_refused_through_all_generations():
    samples = pairs()
    parts = fold().parts(COUNT)
    run: Any = SimpleNamespace(samples=samples, metadata={"parts": torch.from_numpy(parts)})
    _, model = new("ecg-mae", samples)
    refuse_known(checkpoint_of("ecg-mae", model, known=["p0", "p9"]), Path("there"), run)
    for guilty in (
        checkpoint_of("ecg-mae", model, known=["p0", "p10"]),
        checkpoint_of("ecg-mae", model, known=["p0"], parents=[["p1"], ["p11"]]),
    ):
        with pytest.raises(UserError, match=r"trained on 1 patients of this run's test part, p1[01] among"):
            refuse_known(guilty, Path("there"), run)
    assert lineage(guilty) == {"p0", "p1", "p11"}


def test_a_parent_is_a_file_or_the_only_fold_of_a_run(tmp_path):
    with pytest.raises(UserError, match=r"has no fold with a best\.pt"):
        find_parent(tmp_path)
    for number in (0, 1):
        (tmp_path / f"fold_{number}").mkdir()
        (tmp_path / f"fold_{number}" / "best.pt").touch()
        if number == 0:
            assert find_parent(tmp_path) == tmp_path / "fold_0" / "best.pt"
    with pytest.raises(UserError, match="has 2 folds, so name one"):
        find_parent(tmp_path)
    assert find_parent(tmp_path / "fold_1" / "best.pt").parent.name == "fold_1"


def test_a_run_that_reads_the_cine_cannot_start_from_an_ecg():
    samples = pairs()
    settings = dataclasses.replace(SETTINGS["ecg-phenotypes"], reads="cmr", init_ecg=Path("somewhere"))
    task, model = new("ecg-phenotypes", samples, settings)
    with pytest.raises(UserError, match="reads no ECG"):
        task.initialize(model, SimpleNamespace(samples=samples, metadata={}))


# Settings ---------------------------------------------------------------------------------------------


def test_patches_must_divide_a_lead():
    inputs = {"samples": 200, "ecg_rate": 50.0}
    assert patch_length(0.4, inputs) == 20
    with pytest.raises(UserError, match="which do not divide the 200 points"):
        patch_length(0.3, inputs)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("preset", ["paper", "small"])
def test_every_stage_has_both_presets(name, preset):
    settings: Any = registry.training_defaults(name, preset)
    assert settings.preset == preset and settings.folds == (0,)
    assert settings.encoder.encoder_size == {"paper": "tiny", "small": "mini"}[preset]


def test_sizes_go_by_name_and_a_number_beside_it_wins():
    words = ["ecg-mae", "--preset", "paper", "--encoder-size", "large"]
    named: Any = training.read_training_settings("ecg-mae", words[1:])
    assert named.encoder.shape == (1024, 24, 16)
    changed: Any = training.read_training_settings("ecg-mae", [*words[1:], "--depth", "2"])
    assert changed.encoder.shape == (1024, 2, 16)


def test_the_smallest_published_encoder_has_the_published_number_of_weights():
    """5.36 million in the blocks and the embedding of patches of 100 points, as its authors count."""
    inputs = {"samples": 200, "ecg_rate": 50.0, "leads": 2}
    settings = EcgMaeSettings(encoder=EncoderSettings("tiny", patch_seconds=2.0))
    network = ecg_encoder(settings, inputs)
    parts = (*network.embedding.parameters(), *network.transformer.blocks.parameters())
    assert sum(weight.numel() for weight in parts) == pytest.approx(5.36e6, rel=2e-3)
    assert all(width % heads == 0 for width, _, heads in ENCODER_SIZES.values())


def test_stages_do_not_ask_for_labels_and_refuse_to_hide_what_they_read():
    for stage in (EcgMae, CmrMae, EcgCmrContrast, EcgPhenotypes):
        assert not stage.labelled
        with pytest.raises(UserError, match="cannot do without"):
            stage().without(pairs(), "ecg")


@pytest.mark.parametrize(
    ("name", "changed", "options"),
    [
        ("ecg-cmr-contrast", {}, ["--init-ecg RUN", "--init-cmr RUN"]),
        ("ecg-cmr-contrast", {"init_ecg": Path("run")}, ["--init-cmr RUN"]),
        ("ecg-phenotypes", {}, ["--init-ecg RUN"]),
        ("ecg-phenotypes", {"reads": "cmr"}, ["--init-cmr RUN"]),
        ("ecg-phenotypes", {"init_ecg": Path("run")}, []),
        ("ecg-mae", {}, []),
    ],
)
def test_an_encoder_that_starts_from_random_weights_is_said(name, changed, options):
    note = registry.make_task(name, dataclasses.replace(SETTINGS[name], **changed)).note()
    assert re.findall(r"--init-\w+ RUN", note) == options
    assert ("random weights" in note) == bool(options)
