"""Modality dropout, branch losses and modulation of gradients, worked by hand."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from systems.ecg_multimodal.modality_balance import (
    branch_confidences,
    branch_losses,
    discrepancy_ratios,
    drop_modalities,
    modulate_gradients,
    modulation_coefficients,
)

NAN = torch.nan
ROWS = torch.tensor([True, True, False, False])
LABEL = torch.tensor([1, 0, 1, 0])


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def full(rows: int = 4) -> torch.Tensor:
    return torch.ones(rows, dtype=torch.bool)


def test_branch_losses_worked_by_hand():
    logits = {
        "image": torch.tensor([[logit(0.8)], [logit(0.4)], [NAN], [50.0]]),
        "signal": torch.zeros(4, 1),
        "clinical": torch.full((4, 1), NAN),
    }
    has = {"image": ROWS, "signal": full(), "clinical": ~full()}
    losses = branch_losses(logits, LABEL, has)
    assert losses["image"].item() == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert losses["signal"].item() == pytest.approx(math.log(2))
    assert losses["clinical"].item() == 0
    weighted = branch_losses(logits, LABEL, has, weight=torch.tensor([2.0, 0.5, 9.0, 9.0]))
    assert weighted["image"].item() == pytest.approx(-(2 * math.log(0.8) + 0.5 * math.log(0.6)) / 2)


def test_branch_losses_of_several_classes_are_their_mean():
    logits = torch.tensor([[logit(0.8), logit(0.5)]])
    losses = branch_losses({"image": logits}, torch.tensor([[1, 0]]), {"image": full(1)})
    assert losses["image"].item() == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2)


def test_gradients_of_branch_losses_are_zero_where_a_view_is_absent():
    logits: Any = torch.randn(4, 1, requires_grad=True)
    nowhere: Any = torch.randn(4, 1, requires_grad=True)
    losses = branch_losses({"image": logits, "signal": nowhere}, LABEL, {"image": ROWS, "signal": ~full()})
    torch.stack(list(losses.values())).sum().backward()
    assert torch.equal(logits.grad[:, 0] != 0, ROWS)
    assert nowhere.grad is not None and not nowhere.grad.any()


def test_confidences_worked_by_hand():
    logits = {
        "image": torch.tensor([[logit(0.8)], [logit(0.4)], [NAN], [50.0]]),
        "signal": torch.full((4, 1), NAN),
    }
    found = branch_confidences(logits, LABEL, {"image": ROWS, "signal": ~full()})
    assert found["image"].item() == pytest.approx((0.8 + 0.6) / 2)
    assert found["signal"].isnan()
    several = {"image": torch.tensor([[logit(0.9), logit(0.3)]])}
    found = branch_confidences(several, torch.tensor([[1, 0]]), {"image": full(1)})
    assert found["image"].item() == pytest.approx((0.9 + 0.7) / 2)


@pytest.mark.parametrize(
    ("confidences", "ratios"),
    [
        ({"image": 0.8, "signal": 0.4}, {"image": 2.0, "signal": 0.5}),
        ({"image": 0.9, "signal": 0.6, "clinical": 0.3}, {"image": 2.0, "signal": 1.0, "clinical": 0.4}),
        ({"image": 0.9, "signal": 0.6, "clinical": NAN}, {"image": 1.5, "signal": 2 / 3, "clinical": 1.0}),
        ({"image": 0.9, "signal": NAN}, {"image": 1.0, "signal": 1.0}),
        ({"image": 0.9}, {"image": 1.0}),
        ({"image": 0.9, "signal": 0.0}, {"image": 1.0, "signal": 0.0}),
    ],
)
def test_ratios_worked_by_hand(confidences, ratios):
    assert discrepancy_ratios(confidences) == pytest.approx(ratios)


def test_coefficients_worked_by_hand():
    found = modulation_coefficients({"image": 0.9, "signal": 0.6, "clinical": 0.3}, strength=0.5)
    assert found == pytest.approx({"image": 1 - math.tanh(1.0), "signal": 1.0, "clinical": 1.0})
    two = modulation_coefficients({"image": torch.tensor(0.8), "signal": torch.tensor(0.4)}, strength=0.1)
    assert two == pytest.approx({"image": 1 - math.tanh(0.2), "signal": 1.0})
    even = modulation_coefficients({"image": 0.7, "signal": 0.7})
    assert even == {"image": 1.0, "signal": 1.0}
    assert set(modulation_coefficients({"image": 0.9, "signal": 0.1}, strength=0).values()) == {1.0}


def branches() -> tuple[Any, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    modules: Any = nn.ModuleDict({"image": nn.Linear(50, 40), "signal": nn.Linear(3, 1)})
    for weight in modules.parameters():
        weight.grad = torch.randn_like(weight)
    return modules, {key: weight.grad.clone() for key, weight in modules.named_parameters()}


def test_gradients_are_multiplied_in_place():
    modules, before = branches()
    modules["signal"].bias.grad = None
    modulate_gradients(modules, {"image": 0.25, "signal": 1.0})
    assert torch.equal(modules["image"].weight.grad, 0.25 * before["image.weight"])
    assert torch.equal(modules["image"].bias.grad, 0.25 * before["image.bias"])
    assert torch.equal(modules["signal"].weight.grad, before["signal.weight"])
    assert modules["signal"].bias.grad is None


def test_noise_has_the_deviation_of_the_gradient_and_comes_from_the_generator():
    def noisy(seed: int) -> dict[str, torch.Tensor]:
        modules, before = branches()
        modules["image"].weight.grad.mul_(3)
        generator = torch.Generator().manual_seed(seed)
        modulate_gradients(modules, {"image": 0.5, "signal": 1.0}, noise=True, generator=generator)
        added = {key: weight.grad - before[key] for key, weight in modules.named_parameters()}
        added["image.weight"] = modules["image"].weight.grad - 1.5 * before["image.weight"]
        return added

    noise = noisy(0)
    assert noise["image.weight"].std().item() == pytest.approx(3, rel=0.1)
    assert abs(noise["image.weight"].mean().item()) < 0.3
    assert noise["signal.bias"].item() == 0, "a single number has no deviation"
    assert torch.equal(noise["image.weight"], noisy(0)["image.weight"])
    assert not torch.equal(noise["image.weight"], noisy(1)["image.weight"])


def test_the_view_that_dominates_is_slowed_from_losses_to_gradients():
    modules: Any = nn.ModuleDict({"image": nn.Linear(1, 1), "signal": nn.Linear(1, 1)})
    label = torch.tensor([1, 0, 1, 0])
    features = {"image": 2.0 * label[:, None] - 1, "signal": torch.zeros(4, 1)}
    with torch.no_grad():
        modules["image"].weight.fill_(2.0)
        modules["image"].bias.zero_()
        modules["signal"].bias.zero_()
    logits = {name: module(features[name]) for name, module in modules.items()}
    has = {name: full() for name in modules}
    torch.stack(list(branch_losses(logits, label, has).values())).sum().backward()
    before = modules["image"].weight.grad.clone()
    coefficients = modulation_coefficients(branch_confidences(logits, label, has), strength=1.0)
    modulate_gradients(modules, coefficients)
    ratio = 1 / (1 + math.exp(-2)) / 0.5
    assert coefficients == pytest.approx({"image": 1 - math.tanh(ratio), "signal": 1.0})
    torch.testing.assert_close(modules["image"].weight.grad, before * (1 - math.tanh(ratio)))


def test_dropout_leaves_every_proper_subset_equally_often():
    has = {name: full(12_000) for name in ("image", "signal", "clinical")}
    left = drop_modalities(has, rate=1.0, generator=torch.Generator().manual_seed(0))
    bits = torch.stack(list(left.values()), dim=1)
    kinds, counts = bits.unique(dim=0, return_counts=True)
    assert len(kinds) == 6 and kinds.any(dim=1).all() and not kinds.all(dim=1).any()
    # binomial of 12,000 and 1/6: deviation 41
    assert ((counts - 2000).abs() < 5 * 41).all()


def test_dropout_hides_only_what_is_there_and_never_all():
    generator = torch.Generator().manual_seed(0)
    present = torch.tensor([[bool(code >> view & 1) for view in range(3)] for code in range(1, 8)])
    present = present.repeat(500, 1)
    has = dict(zip(("image", "signal", "clinical"), present.unbind(dim=1), strict=True))
    left = torch.stack(list(drop_modalities(has, rate=0.5, generator=generator).values()), dim=1)
    assert not (left & ~present).any() and left.any(dim=1).all()
    several = present.sum(dim=1) > 1
    assert torch.equal(left[~several], present[~several])
    touched = (left != present).any(dim=1)[several].float().mean()
    assert touched.item() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(2000))


def test_dropout_with_rate_zero_changes_nothing_and_the_input_stays():
    has = {"image": full(), "signal": ROWS.clone()}
    assert all(torch.equal(mask, has[name]) for name, mask in drop_modalities(has, rate=0.0).items())
    drop_modalities(has, rate=1.0)
    assert has["image"].all() and torch.equal(has["signal"], ROWS)


def test_dropout_follows_its_generator():
    def left(seed: int) -> torch.Tensor:
        has = {name: full(50) for name in ("image", "signal")}
        return drop_modalities(has, 0.5, torch.Generator().manual_seed(seed))["image"]

    assert torch.equal(left(0), left(0))
    assert not torch.equal(left(0), left(1))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: drop_modalities({"image": full()}, rate=1.5), "rate must be 0 to 1"),
        (lambda: modulation_coefficients({"image": 0.5}, strength=-1), "strength must be"),
        (lambda: branch_losses({"image": torch.zeros(4, 5)}, LABEL, {"image": full()}), "does not fit"),
        (lambda: branch_confidences({"image": torch.zeros(4, 1)}, LABEL[:3], {"image": full()}), "does not"),
    ],
)
def test_what_must_raise(act, message):
    with pytest.raises(ValueError, match=message):
        act()
