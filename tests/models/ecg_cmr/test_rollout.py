"""Attention rollout weighted by gradients: by hand, against finite differences, and over leads."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models.ecg_cmr.cmr_encoder import CMREncoder
from models.ecg_cmr.ecg_encoder import ECGEncoder
from models.ecg_cmr.phenotypes import PhenotypeModel
from models.ecg_cmr.rollout import attention_rollout, lead_relevance


def phenotypes(pooling: str = "mean", covariates: int = 0, **sizes: Any) -> PhenotypeModel:
    torch.manual_seed(0)
    encoder = ECGEncoder(**({"samples": 40, "patch_length": 10, "leads": 3} | sizes), token_width=16, heads=2)
    return PhenotypeModel(encoder, 2, 1, covariates, pooling=pooling).eval()


def ecgs(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 40, generator=torch.Generator().manual_seed(0))


def relevance(model: PhenotypeModel, ecg: Tensor, **options: Any) -> Tensor:
    chosen: dict[str, Any] = {"group": "indicators", "column": 0} | options
    return lead_relevance(model, ecg, **chosen)


def attentions(model: PhenotypeModel) -> list[Any]:
    blocks: Any = model.encoder.transformer.blocks
    return [block.attention for block in blocks]


def maps(*rows: Any) -> Tensor:
    """Return attention or gradients of one sample, a head for each matrix."""
    return torch.tensor(rows, dtype=torch.float32)[None]


# By hand ----------------------------------------------------------------------------------------------

FIRST = maps([[0.5, 0.5], [0.25, 0.75]], [[1.0, 0.0], [0.5, 0.5]])
FIRST_GRADIENT = maps([[0.8, 0.4], [-0.4, 0.8]], [[0.4, 7.0], [0.2, -0.4]])
SECOND = maps([[0.0, 1.0], [0.5, 0.5]])
SECOND_GRADIENT = maps([[3.0, 0.1], [0.4, -9.0]])


def test_two_layers_by_hand():
    # first layer: gradient times attention [[.4, .2], [-.1, .6]] and [[.4, 0], [.1, -.2]]; mean over heads
    # [[.4, .1], [0, .2]]; row sums .5 and .2, the largest brought to 1: [[.8, .2], [0, .4]]
    first = torch.tensor([[1.8 / 2, 0.2 / 2], [0.0, 1.4 / 1.4]])
    # second layer: [[0, .1], [.2, -4.5]], what is negative left out: [[0, .1], [.2, 0]]; row sums .1 and .2,
    # the largest brought to 1: [[0, .5], [1, 0]]
    second = torch.tensor([[1 / 1.5, 0.5 / 1.5], [1 / 2, 1 / 2]])
    # the way through both residuals: 1 / 2 * 1 / 1.5 and 1 / 1.4 * 1 / 2
    residual = torch.tensor([[1 / 3, 0.0], [0.0, 1 / 2.8]])
    by_hand = second @ first - residual
    found = attention_rollout([FIRST, SECOND], [FIRST_GRADIENT, SECOND_GRADIENT], 0.0)[0]
    assert torch.allclose(found, by_hand)
    assert torch.allclose(found, torch.tensor([[0.8 / 3, 0.4], [0.45, 0.55 - 1 / 2.8]]), atol=1e-6)
    swapped = attention_rollout([SECOND, FIRST], [SECOND_GRADIENT, FIRST_GRADIENT], 0.0)[0]
    assert not torch.allclose(swapped, by_hand), "order matters"


def test_the_discard_ratio_leaves_the_weakest_entries_of_each_layer_away():
    # of [[.4, .1], [0, .2]] three quarters are left away: .4 stays, and is brought to 1
    found = attention_rollout([FIRST], [FIRST_GRADIENT], 0.75)[0]
    assert torch.allclose(found, torch.tensor([[0.5, 0.0], [0.0, 0.0]]))
    # half: .4 and .2 stay, rows 1 and .5
    found = attention_rollout([FIRST], [FIRST_GRADIENT], 0.5)[0]
    assert torch.allclose(found, torch.tensor([[0.5, 0.0], [0.0, 0.5 / 1.5]]))


def test_each_sample_is_cut_and_scaled_by_itself():
    attention, gradient = torch.cat([FIRST, SECOND.expand(1, 2, 2, 2)]), torch.cat([FIRST_GRADIENT] * 2)
    both = attention_rollout([attention], [gradient], 0.5)
    alone = [attention_rollout([attention[[k]]], [gradient[[k]]], 0.5)[0] for k in (0, 1)]
    assert torch.equal(both, torch.stack(alone))


def test_alike_gradients_give_the_plain_rollout_less_the_residual_way():
    layers = [torch.rand(2, 3, 5, 5).softmax(dim=-1) for _ in range(3)]
    eye, plain = torch.eye(5), torch.eye(5).expand(2, 5, 5)
    for layer in layers:
        plain = (layer.mean(dim=1) + eye) / 2 @ plain
    found = attention_rollout(layers, [torch.full_like(layer, 0.01) for layer in layers], 0.0)
    assert torch.allclose(found, plain - eye / 8, atol=1e-6)


def test_the_unit_of_the_output_does_not_matter_and_what_lowers_it_is_left_out():
    large = attention_rollout([FIRST, SECOND], [1e4 * FIRST_GRADIENT, 1e-4 * SECOND_GRADIENT], 0.0)
    assert torch.allclose(large, attention_rollout([FIRST, SECOND], [FIRST_GRADIENT, SECOND_GRADIENT], 0.0))
    assert not attention_rollout([FIRST, SECOND], [-FIRST.sign(), -SECOND.sign()]).any()


# Gradients --------------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_output(monkeypatch):
    model, ecg = phenotypes(depth=2), ecgs(1)
    encoded, _, layers = model.encoder.encode_with_attention(ecg)
    assert torch.allclose(encoded, model.encoder.encode(ecg), atol=1e-6)
    output = model.predict(encoded[:, 1:].mean(dim=1))["indicators"][0, 1]
    gradients = torch.autograd.grad(output, layers)
    for number, attention in enumerate(attentions(model)):
        change = torch.zeros_like(layers[number])
        change[0, 1, 3, 5] = 1e-2
        original: Any = attention.maps

        def changed(*given: Any, original: Any = original, change: Tensor = change) -> Tensor:
            return original(*given) + change

        with monkeypatch.context() as patch:
            patch.setattr(attention, "maps", changed)
            moved = model.predict(model.encoder.encode_with_attention(ecg)[0][:, 1:].mean(dim=1))
        slope = float(moved["indicators"][0, 1].detach() - output.detach()) / 1e-2
        assert slope == pytest.approx(float(gradients[number][0, 1, 3, 5]), rel=0.05, abs=1e-5)


def test_a_frozen_encoder_gives_the_same():
    free, frozen = phenotypes(), phenotypes()
    frozen.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(relevance(frozen, ecgs()), relevance(free, ecgs()))
    assert all(weight.grad is None for weight in free.parameters())


# Over leads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "class"])
def test_relevance_is_shared_out_over_the_leads_there_are(pooling):
    present = torch.ones(4, 3, dtype=torch.bool)
    present[1, 0] = False
    ecg = ecgs()
    ecg[2, 2] = 0.0
    shares = relevance(phenotypes(pooling), ecg, lead_present=present, discard_ratio=0.5)
    assert shares.shape == (4, 3, 4)
    assert torch.allclose(shares.sum(dim=(1, 2)), torch.ones(4), atol=1e-6)
    assert (shares >= 0).all() and not shares.requires_grad
    assert (shares[1, 0] == 0).all() and (shares[2, 2] == 0).all()


def test_outputs_and_covariates_have_a_relevance_of_their_own():
    model, ecg = phenotypes(covariates=1), ecgs()
    film: Any = model.film
    torch.nn.init.normal_(film.modulation[-1].weight)
    young, old = torch.full((4, 1), -1.0), torch.full((4, 1), 1.0)
    found = [
        relevance(model, ecg, covariates=young),
        relevance(model, ecg, covariates=old),
        relevance(model, ecg, covariates=young, column=1),
        relevance(model, ecg, covariates=young, group="diseases"),
        relevance(model, ecg, covariates=young, discard_ratio=0.0),
    ]
    assert all(not torch.allclose(one, found[0], atol=1e-3) for one in found[1:])


def test_what_raises_an_output_is_told_from_what_lowers_it():
    """Of one layer and its class token nothing can do both; a stretch that all look at does one of them."""
    ecg, looked_at = ecgs(3), torch.full((3, 2, 13, 13), 1e-3)
    looked_at[..., 1 + 2 * 4 + 3] = 1 - 12e-3  # class token, then the last stretch of the third lead
    shares = []
    for sign in (1, -1):
        model = phenotypes("class", depth=1)
        head: Any = model.heads["indicators"]
        with torch.no_grad():
            head[-1].weight.mul_(sign)
        attentions(model)[0].maps = lambda *given: looked_at.clone()
        shares.append(relevance(model, ecg, discard_ratio=0.0).flatten(1))
    assert not (shares[0] * shares[1]).any()
    most = torch.stack([share.argmax(dim=1) == 11 for share in shares])
    assert (most.sum(dim=0) == 1).all()


def test_what_makes_no_rollout_is_refused():
    with pytest.raises(ValueError, match="one layer at least"):
        attention_rollout([], [])
    with pytest.raises(ValueError, match="one for each"):
        attention_rollout([FIRST], [])
    with pytest.raises(ValueError, match="discard_ratio must be"):
        attention_rollout([FIRST], [FIRST_GRADIENT], 1.0)
    with pytest.raises(ValueError, match="reads no ECG"):
        relevance(PhenotypeModel(CMREncoder(4, 16, (4, 8, 8), 16, 1, 2), 2, 1), ecgs())
