"""One network takes every subset of three modalities; what is absent has no effect."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.ecg_multimodal.network import (
    FUSIONS,
    MODALITIES,
    GateFusion,
    MultimodalNetwork,
    equal_weights,
    mean_of_present,
)

SUBSETS = [
    names for count in (1, 2, 3) for names in itertools.combinations(MODALITIES, count)
]  # seven, all three last
MASKS = {f"has_{name}": torch.tensor([name in names for names in SUBSETS]) for name in MODALITIES}
"""Seven patients, one for each non-empty subset of the modalities."""
SMALL: dict[str, Any] = {
    "leads": 2,
    "clinical_features": 3,
    "width": 8,
    "image_size": (33, 40),
    "dropout": 0.0,
}


def inputs(rows: int = 7, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clinical = torch.randn(rows, 3, generator=generator)
    clinical[0, 1] = torch.nan
    return {
        "image": torch.rand(rows, 1, 33, 40, generator=generator),
        "signal": torch.randn(rows, 2, 80, generator=generator),
        "clinical": clinical,
    }


def network(fusion: str = "gate", **options: Any) -> Any:
    torch.manual_seed(0)
    model = MultimodalNetwork(**(SMALL | {"fusion": fusion} | options))
    for key, weight in model.named_parameters():
        if "tokens" in key:  # zero at first; here they have an effect
            nn.init.normal_(weight)
    training = inputs(20, seed=2)
    model.fit(training["signal"], training["clinical"])
    return model


def spoiled(given: dict[str, Tensor], value: float) -> dict[str, Tensor]:
    """Return the batch with this value wherever a row lacks a modality."""
    return {
        name: torch.where(
            MASKS[f"has_{name}"].view(-1, *[1] * (values.ndim - 1)), values, torch.tensor(value)
        )
        for name, values in given.items()
    }


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (7, 1)),
        ({"classes": 5}, (7, 5)),
        ({"modalities": ("image",), "classes": 5}, (7, 5)),
        ({"modalities": ("signal",)}, (7, 1)),
        ({"modalities": ["clinical"]}, (7, 1)),
        ({"modalities": ("clinical", "image"), "width": 16}, (7, 1)),
    ],
)
def test_shapes(fusion, options, shape):
    model = network(fusion, **options)
    logits, branch_logits, gates = model(**inputs(), with_branches=True)
    assert logits.shape == shape and logits.isfinite().all()
    assert (
        tuple(branch_logits)
        == model.modalities
        == tuple(name for name in MODALITIES if name in branch_logits)
    )
    assert all(each.shape == shape and each.isfinite().all() for each in branch_logits.values())
    assert gates.shape == (7, len(model.modalities))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_both_ways_to_call_give_the_same(fusion):
    model = network(fusion).eval()
    found = model(**inputs(), **MASKS, with_branches=True)
    assert torch.equal(model(**inputs(), **MASKS), found[0])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_masked_and_not_given_are_one_for_each_of_the_seven_subsets(fusion):
    model, given = network(fusion, classes=2).eval(), inputs()
    mixed = model(**given, **MASKS)
    for row, names in enumerate(SUBSETS):
        alone = model(**{name: given[name][row : row + 1] for name in names})
        torch.testing.assert_close(mixed[row], alone[0])
    assert len(torch.unique(mixed[:, 0])) == len(SUBSETS)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("value", [0.0, 1e6, torch.nan])
def test_an_absent_modality_can_hold_anything(fusion, training, value):
    results = []
    for given in (inputs(), spoiled(inputs(), value)):
        model = network(fusion).train(training)
        logits, branch_logits, gates = model(**given, **MASKS, with_branches=True)
        known = [branch_logits[name][MASKS[f"has_{name}"]] for name in MODALITIES]
        sum(each.square().sum() for each in (logits, *known)).backward()
        gradients = [weight.grad for weight in model.parameters()]
        results.append([logits, gates, *known, *model.buffers(), *gradients])
    assert results[0][0].isfinite().all()
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after), "outputs, running statistics and gradients are the same"


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("name", MODALITIES)
def test_a_present_modality_counts_and_only_where_it_is_present(fusion, name):
    model, given = network(fusion).eval(), inputs()
    before = model(**given, **MASKS)
    after = model(**(given | {name: given[name] * 0.5 + 0.1 * torch.randn(given[name].shape)}), **MASKS)
    assert torch.equal((before != after).any(dim=1), MASKS[f"has_{name}"])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gates_sum_to_one_and_are_zero_for_absent_modalities(fusion):
    _, branch_logits, gates = network(fusion)(**inputs(), **MASKS, with_branches=True)
    present = torch.stack(list(MASKS.values()), dim=1)
    torch.testing.assert_close(gates.sum(dim=1), torch.ones(7))
    assert torch.equal(gates > 0, present)
    for column, name in enumerate(MODALITIES):
        assert torch.equal(branch_logits[name].isnan()[:, 0], ~present[:, column])


def test_the_gate_weighs_as_worked_by_hand():
    fusion: Any = GateFusion(count=2, features=1)
    nn.init.zeros_(fusion.gate[2].weight)
    with torch.no_grad():
        fusion.gate[2].bias.copy_(torch.tensor([math.log(3.0), 0.0]))
    fused, gates = fusion(torch.tensor([[[8.0], [4.0]]] * 2), torch.tensor([[True, True], [False, True]]))
    torch.testing.assert_close(gates, torch.tensor([[0.75, 0.25], [0.0, 1.0]]))
    torch.testing.assert_close(fused, torch.tensor([[7.0], [4.0]]))


def test_the_gate_is_of_each_patient():
    gates = network()(**inputs(), with_branches=True)[2]
    assert len(torch.unique(gates[:, 0])) == 7


def test_late_fusion_is_the_mean_of_the_present_branches():
    logits, branch_logits, gates = network("late")(**inputs(), **MASKS, with_branches=True)
    for row, names in enumerate(SUBSETS):
        mean = torch.stack([branch_logits[name][row] for name in names]).mean(dim=0)
        torch.testing.assert_close(logits[row], mean)
        assert gates[row].max().item() == pytest.approx(1 / len(names))


def test_known_answer_of_the_mean_of_present():
    logits = torch.tensor([[[1.0], [torch.nan], [5.0]], [[torch.nan], [2.0], [torch.nan]]])
    present = ~logits.isnan().squeeze(-1)
    assert mean_of_present(logits, present).tolist() == [[3.0], [2.0]]
    assert equal_weights(present).tolist() == [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_rows_may_come_in_any_order(fusion):
    model, given = network(fusion).eval(), inputs()
    order = torch.tensor([3, 0, 6, 5, 1, 2, 4])
    turned = {name: values[order] for name, values in (given | MASKS).items()}
    first, second = model(**given, **MASKS, with_branches=True), model(**turned, with_branches=True)
    torch.testing.assert_close(first[0][order], second[0])
    torch.testing.assert_close(first[2][order], second[2])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients_reach_every_weight(fusion):
    model = network(fusion)
    logits, branch_logits, _ = model(**inputs(), with_branches=True)
    (logits.square().sum() + sum(each.square().sum() for each in branch_logits.values())).backward()
    for key, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), key
        # no tokens where nothing is missing
        assert bool(weight.grad.any()) == ("tokens" not in key), key


@pytest.mark.parametrize("fusion", ["gate", "concatenation"])
def test_gradients_reach_every_token_where_modalities_are_absent(fusion):
    model = network(fusion)
    model(**inputs(), **MASKS).square().sum().backward()
    assert all(token.grad.any() for token in model.tokens.values())


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("name", MODALITIES)
def test_a_batch_without_a_modality_leaves_its_branch_at_rest(fusion, name):
    model = network(fusion)
    given = {other: values for other, values in inputs().items() if other != name}
    branch = model.branches[name]
    before = [buffer.clone() for buffer in branch.buffers() if buffer.is_floating_point()]
    logits, branch_logits, _ = model(**given, with_branches=True)
    (logits.sum() + sum(branch_logits[other].sum() for other in given)).backward()
    after = [buffer for buffer in branch.buffers() if buffer.is_floating_point()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(weight.grad is not None and not weight.grad.any() for weight in branch.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_patient_is_enough_to_train_on(fusion):
    model = network(fusion)
    logits = model(**inputs(1))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_batch_normalization_counts_present_rows_alone():
    mixed, present = network(), network()
    given = inputs()
    mixed(**given, **MASKS)
    for name in ("image", "signal"):
        present.branches[name](given[name][MASKS[f"has_{name}"]])
        pairs = zip(mixed.branches[name].buffers(), present.branches[name].buffers(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_patient_with_every_clinical_value_missing_is_scored(fusion):
    model = network(fusion).eval()
    nothing = torch.full((2, 3), torch.nan)
    logits = model(clinical=nothing)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[0], logits[1])  # the last rows of a batch may be rounded otherwise
    beside = model(**(inputs(2) | {"clinical": nothing}))
    assert beside.isfinite().all() and not torch.allclose(beside[0], beside[1])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_checkpoint_keeps_the_scalers(fusion, tmp_path):
    model = network(fusion).eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.manual_seed(9)
    other = MultimodalNetwork(**SMALL, fusion=fusion)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(other.eval()(**inputs(), **MASKS), model(**inputs(), **MASKS))
    scaler = other.branches["clinical"].scaler
    torch.testing.assert_close(scaler.mean, inputs(20, seed=2)["clinical"].nanmean(dim=0))


def test_a_network_of_one_modality_ignores_the_others():
    model, given = network(modalities=("signal",)).eval(), inputs()
    alone = model(signal=given["signal"])
    assert torch.equal(alone, model(**given, has_image=MASKS["has_image"]))
    logits, branch_logits, gates = model(**given, with_branches=True)
    assert torch.equal(logits, branch_logits["signal"]) and torch.equal(gates, torch.ones(7, 1))


@pytest.mark.parametrize("fusion", ["gate", "concatenation"])
def test_probes_measure_a_branch_and_teach_it_nothing(fusion):
    model = network(fusion, probe_branches=True)
    branch_logits = model(**inputs(), with_branches=True)[1]
    sum(each.square().sum() for each in branch_logits.values()).backward()
    assert all(weight.grad is None for weight in model.branches.parameters())
    assert all(weight.grad.any() for weight in model.branch_heads.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_seed_sets_the_weights(fusion):
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(MultimodalNetwork(**SMALL, fusion=fusion).parameters())

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_sizes_of_the_small_and_of_the_published_network():
    def count(model: nn.Module) -> int:
        return sum(weight.numel() for weight in model.parameters())

    small = MultimodalNetwork(clinical_features=24)
    assert 0.5e6 < count(small) < 1.1e6
    published: Any = MultimodalNetwork(clinical_features=24, width=64, image_size=(250, 2500))
    resnet18 = 11_689_512 - 513_000 - 2 * 64 * 49  # torchvision's, less classifier and two of three colours
    assert count(published.branches["image"].network) == resnet18
    assert published.head[0].in_features == 256


def cohort(cause: str, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return noise of 32 patients, with the cause in one modality, and labels that alternate."""
    label = torch.arange(32) % 2
    given = inputs(32, seed)
    given["clinical"] = given["clinical"].nan_to_num()
    if cause == "clinical":
        given["clinical"][:, 0] = 2.0 * label - 1
    elif cause == "signal":
        given["signal"][:, 1] += 2 * label[:, None] * torch.hann_window(80)
    else:
        given["image"][:, :, 10:20] *= 1 - 0.8 * label[:, None, None, None]
    return given, label


@pytest.mark.parametrize("cause", MODALITIES)
def test_a_cause_in_one_modality_is_learned_from_it(cause):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(70):  # other patients in every step: noise cannot be memorized
        given, label = cohort(cause, seed=10 + step)
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(**given)[:, 0], label.float()).backward()
        optimizer.step()
    given, label = cohort(cause, seed=9)
    swapped = given | {cause: given[cause].roll(1, dims=0)}  # each patient has another's cause
    right, wrong = (((model.eval()(**each)[:, 0] > 0) == label).float().mean() for each in (given, swapped))
    assert right > 0.9 and wrong < 0.1


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "nothing to predict from"),
        (inputs() | MASKS | {"has_clinical": torch.zeros(7, dtype=torch.bool)}, r"Rows \[2\] of the batch"),
        (inputs() | {name: torch.zeros(7, dtype=torch.bool) for name in MASKS}, r"Rows \[0, 1, 2, 3, 4\]"),
        ({"image": inputs()["image"], "has_signal": torch.ones(7, dtype=torch.bool)}, "signal is not given"),
        ({"image": inputs()["image"], "has_image": torch.ones(7)}, "has_image must be boolean"),
        (inputs() | {"has_image": torch.ones(6, dtype=torch.bool)}, r"of shape \(7,\)"),
        (inputs() | {"signal": inputs(6)["signal"]}, "same number of rows"),
        ({"image": torch.rand(7, 1, 64, 640)}, r"\(batch, 1, 33, 40\)"),
        ({"signal": torch.rand(7, 12, 80)}, r"\(batch, 2, points\)"),
        ({"signal": torch.rand(7, 2, 63)}, "at least 64 points"),
        ({"clinical": torch.rand(7, 4)}, r"\(batch, 3\)"),
    ],
)
def test_inputs_that_must_raise(fusion, inputs, message):
    with pytest.raises(ValueError, match=message):
        network(fusion)(**inputs)


def test_a_row_that_has_only_other_modalities_is_refused():
    with pytest.raises(ValueError, match=r"Rows \[0, 2, 4\] of the batch have none of signal"):
        network(modalities=("signal",))(**inputs(), **MASKS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ()}, "modalities must be"),
        ({"modalities": "image"}, "modalities must be"),
        ({"modalities": ("image", "sound")}, "modalities must be"),
        ({"modalities": ("image", "image")}, "modalities must be"),
        ({"fusion": "early"}, "gate, concatenation, late"),
        ({"classes": 0}, "classes must be"),
        ({"width": 12}, "multiple of 8"),
        ({"width": 0}, "multiple of 8"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"clinical_features": 0}, "clinical_features must be"),
        ({"leads": 0}, "leads must be"),
        ({"kernel_size": 6}, "kernel_size must be odd"),
        ({"image_size": (32, 640)}, "image_size must be"),
        ({"probe_branches": True, "fusion": "late"}, "probe_branches needs"),
        ({"probe_branches": True, "modalities": ("image",)}, "probe_branches needs"),
    ],
)
def test_options_that_must_raise(options, message):
    with pytest.raises(ValueError, match=message):
        MultimodalNetwork(**(SMALL | options))


def test_an_unfitted_network_and_a_modality_that_is_not_given_to_fit_are_refused():
    with pytest.raises(RuntimeError, match="not fitted"):
        MultimodalNetwork(**SMALL)(**inputs())
    with pytest.raises(ValueError, match="reads the clinical modality"):
        MultimodalNetwork(**SMALL).fit(inputs()["signal"])
