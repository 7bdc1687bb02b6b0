"""Evidence is summed as on paper; filters change only some features; the deep path starts at zero."""

import math
from typing import Any

import pytest
import torch

from models.phase_fusion import EVIDENCE_WEIGHTS, FusionMember, PhaseFusion

SMALL: dict[str, Any] = {"pcg_shape": (1, 2, 2), "ecg_shape": (1, 2, 1), "ecg_bands": 1, "members": 1}
YES, NO = torch.tensor([True]), torch.tensor([False])


def by_hand() -> Any:
    """Return a model whose log-odds can be worked out on paper, its deep path zero."""
    model: Any = PhaseFusion(**SMALL).eval()
    model.fitted.fill_(True)
    weights = {
        "whole": [1.0, 0.0, 0.0, 2.0],
        "shape": [0.0, 1.0, 3.0, 0.0],
        "colour": [0.0, 5.0],
        "ecg": [4.0],
    }
    for name, weight in weights.items():
        model.evidence[name].weight.data = torch.tensor(weight, dtype=torch.float64)
        model.evidence[name].bias.data.fill_(0.5)
    return model


# cells (1, 3) and (5, 7): level 4, colour (3, 5)
GRID = torch.tensor([[1.0, 3.0, 5.0, 7.0]])
WHOLE = 1 * -3 + 2 * 3 + 0.5
SHAPE = 1 * (3 - 5) + 3 * (5 - 3) + 0.5
COLOUR = 5 * (5 - 4) + 0.5
BANDS, ECG = torch.tensor([[2.0]]), 4 * 2 + 0.5
CYCLE = torch.tensor([[1.0, 2.0]])
SOUND = (WHOLE + SHAPE + COLOUR) / 3
NOTHING = torch.full((1, 4), math.nan)


@pytest.mark.parametrize(
    ("has_pcg", "has_ecg", "expected"),
    [(YES, YES, SOUND + ECG * 2 / 3), (YES, NO, SOUND), (NO, YES, ECG * 2 / 3)],
)
def test_evidence_is_the_sum_worked_out_by_hand(has_pcg, has_ecg, expected):
    grid = GRID if has_pcg else NOTHING
    bands, cycle = (BANDS, CYCLE) if has_ecg else (NOTHING[:, :1], NOTHING[:, :2])
    log_odds = by_hand()(grid, bands, cycle, has_pcg, has_ecg)
    assert log_odds.item() == pytest.approx(expected)
    assert log_odds.dtype == torch.float64


def test_three_views_of_one_signal_weigh_as_one_and_a_half_of_the_other():
    assert sum(EVIDENCE_WEIGHTS[name] for name in ("whole", "shape", "colour")) == pytest.approx(1)
    assert EVIDENCE_WEIGHTS["ecg"] == pytest.approx(2 / 3)


def trained(seed: int = 0, **options: Any) -> Any:
    """Return a network whose deep path is not zero."""
    torch.manual_seed(seed)
    model: Any = PhaseFusion((3, 22, 5), (3, 22, 4), 13, channels=8, members=2, **options).eval()
    model.fitted.fill_(True)
    model.share.fill_(1.0)
    for member in model.members:
        torch.nn.init.normal_(member.output.weight)
        for name in member.tokens:
            torch.nn.init.normal_(member.tokens[name])
    return model


def recordings(count=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sizes = (3 * 22 * 5, 13, 3 * 22 * 4)
    return [torch.randn(count, size, generator=generator) for size in sizes]


def masks(pcg, ecg, count=4):
    return torch.full((count,), pcg), torch.full((count,), ecg)


def test_loudness_has_no_effect():
    model = trained()
    torch.nn.init.normal_(model.evidence["whole"].weight)
    torch.nn.init.normal_(model.evidence["colour"].weight)
    pcg, bands, cycle = recordings()
    before = model(pcg, bands, cycle, *masks(True, True))
    assert torch.allclose(model(pcg + 0.7, bands, cycle, *masks(True, True)), before, atol=1e-4)


def test_a_filter_moves_whole_and_colour_but_neither_shape_nor_the_deep_path():
    model = trained()
    pcg, _, cycle = recordings()
    gain = torch.tensor([0.5, -0.2, 0.1, 0.9, -0.4])
    filtered = (pcg.reshape(4, 3, 22, 5) + gain).flatten(1)
    before, after = model.sound_features(pcg), model.sound_features(filtered)
    assert torch.allclose(before["shape"], after["shape"], atol=1e-5)
    assert not torch.allclose(before["whole"], after["whole"], atol=0.1)
    assert torch.allclose(after["colour"] - before["colour"], (gain - gain.mean()).repeat(3), atol=1e-5)
    has = masks(True, True)
    assert torch.allclose(model.deep(pcg, cycle, *has), model.deep(filtered, cycle, *has), atol=1e-4)


def test_what_is_absent_reaches_nothing():
    model = trained()
    pcg, bands, cycle = recordings()
    has = torch.tensor([True, True, False, True]), torch.tensor([True, False, True, True])
    before = model(pcg, bands, cycle, *has)
    pcg[2], bands[1], cycle[1] = math.nan, math.nan, math.nan
    assert torch.equal(model(pcg, bands, cycle, *has), before)
    assert torch.isfinite(before).all()


def test_an_ecg_without_beats_still_counts_by_its_band_powers():
    model = trained()
    torch.nn.init.normal_(model.evidence["ecg"].weight)
    pcg, bands, cycle = recordings()
    none = torch.full_like(cycle, math.nan)
    alone = model(pcg, bands, none, *masks(False, True))
    assert torch.allclose(alone, EVIDENCE_WEIGHTS["ecg"] * model.evidence["ecg"](bands))
    assert torch.isfinite(model(pcg, bands, none, *masks(True, True))).all()


def test_both_signals_and_the_order_of_phases_reach_the_deep_path():
    model = trained()
    pcg, _, cycle = recordings()
    has = masks(True, True)
    before = model.deep(pcg, cycle, *has)
    turned = pcg.reshape(4, 3, 22, 5).flip(2).flatten(1)
    assert not torch.allclose(model.deep(turned, cycle, *has), before, atol=1e-3)
    assert not torch.allclose(model.deep(pcg, cycle.roll(1, 0), *has), before, atol=1e-3)
    assert not torch.allclose(model.deep(pcg, cycle, *masks(True, False)), before, atol=1e-3)


def test_the_deep_path_starts_at_zero_and_is_weighted_by_its_share():
    pcg, bands, cycle = recordings()
    has = masks(True, True)
    fresh = PhaseFusion((3, 22, 5), (3, 22, 4), 13, members=2).eval()
    assert fresh.deep(pcg, cycle, *has).abs().max() == 0
    model = trained()
    evidence, deep = model.evidence_of(pcg, bands, *has), model.deep(pcg, cycle, *has)
    for share in (0.0, 0.25, 1.0):
        model.share.fill_(share)
        assert torch.allclose(model(pcg, bands, cycle, *has), evidence + share * deep.double(), atol=1e-6)


def test_members_are_averaged_and_restart_from_the_seed():
    model = trained()
    pcg, _, cycle = recordings()
    grids, has = model.standardized_grids(pcg, cycle, *masks(True, True))
    each = [member(grids, has) for member in model.members]
    assert torch.allclose(model.deep(pcg, cycle, *masks(True, True)), (each[0] + each[1]) / 2, atol=1e-6)
    member = FusionMember(15, 12)

    def weights(seed):
        torch.manual_seed(seed)
        member.restart()
        return torch.nn.utils.parameters_to_vector(member.parameters()).detach().clone()

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_every_weight_of_a_member_gets_a_gradient():
    model = trained().train()
    pcg, _, cycle = recordings()
    has = torch.tensor([True, True, False, True]), torch.tensor([True, False, True, True])
    model.deep(pcg, cycle, *has).square().sum().backward()
    assert all(
        weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.members[0].parameters()
    )


def test_recordings_without_a_fitted_signal_and_wrong_sizes_are_refused():
    model = by_hand()
    with pytest.raises(ValueError, match="1 of 1 recordings have no signal"):
        model(GRID, BANDS, CYCLE, NO, NO)
    model.fitted[1] = False
    with pytest.raises(ValueError, match="no signal that this model was fitted on"):
        model(GRID, BANDS, CYCLE, NO, YES)
    with pytest.raises(ValueError, match="same cells"):
        PhaseFusion((1, 2, 2), (1, 3, 2))
    with pytest.raises(ValueError, match="at least one member"):
        PhaseFusion(members=0)


def test_the_default_size_is_the_one_documented():
    model = PhaseFusion()
    count = [
        sum(weight.numel() for weight in part.parameters())
        for part in (model, model.evidence, model.members[0])
    ]
    assert count == [60_806, 4_607, 18_733]
