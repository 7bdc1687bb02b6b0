"""Attention rollout: by hand, and drawn over leads."""

import pytest
import torch
from torch import Tensor

from models.ecg_cmr.ecg_encoder import ECGEncoder
from models.ecg_cmr.rollout import attention_rollout, lead_relevance


def encoder() -> ECGEncoder:
    torch.manual_seed(0)
    return ECGEncoder(40, 10, 3, 16, 2, 2)


def ecgs(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 40, generator=torch.Generator().manual_seed(0))


def test_two_layers_by_hand():
    first = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]])  # two heads
    second = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    # means [[.5, .5], [1, 0]] and [[0, 1], [0, 1]], each averaged with the identity, the last on the left
    by_hand = torch.tensor([[0.5, 0.5], [0.0, 1.0]]) @ torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    assert torch.allclose(attention_rollout([first, second])[0], by_hand)
    assert not torch.allclose(attention_rollout([second, first])[0], by_hand), "order matters"


def test_rows_sum_to_one():
    maps, _ = encoder().attention(ecgs())
    rolled = attention_rollout(maps)
    assert rolled.shape == (4, 13, 13)
    assert torch.allclose(rolled.sum(dim=-1), torch.ones(4, 13), atol=1e-6)


def test_tokens_that_look_at_themselves_keep_to_themselves():
    eye = torch.eye(5).expand(2, 3, 5, 5)
    assert torch.equal(attention_rollout([eye, eye]), torch.eye(5).expand(2, 5, 5))


@pytest.mark.parametrize("pooling", ["mean", "class"])
def test_relevance_is_shared_out_over_the_leads_there_are(pooling):
    present = torch.ones(4, 3, dtype=torch.bool)
    present[1, 0] = False
    ecg = ecgs()
    ecg[2, 2] = 0.0
    shares = lead_relevance(encoder(), ecg, present, pooling)
    assert shares.shape == (4, 3, 4)
    assert torch.allclose(shares.sum(dim=(1, 2)), torch.ones(4), atol=1e-6)
    assert (shares[1, 0] == 0).all()
    assert (shares[2, 2] == 0).all()
    assert (shares > 0).sum() == 48 - 8
    assert not shares.requires_grad


@pytest.mark.parametrize("pooling", ["mean", "class"])
def test_the_stretch_that_all_look_at_counts_most(monkeypatch, pooling):
    looked_at = torch.zeros(2, 1, 13, 13)
    looked_at[..., 1 + 2 * 4 + 3] = 1.0  # class token, then the last stretch of the third lead
    model = encoder()
    usable = torch.ones(2, 12, dtype=torch.bool)
    monkeypatch.setattr(model, "attention", lambda ecg, present: ([looked_at] * 2, usable))
    shares = lead_relevance(model, ecgs(2), pooling=pooling)
    assert shares.flatten(1).argmax(dim=1).tolist() == [11, 11]
    # two layers leave a quarter of each token's own information where it was
    expected = 1.0 if pooling == "class" else (0.75 * 11 + 1) / 12
    assert shares[:, 2, 3].tolist() == pytest.approx([expected] * 2)


def test_no_layers_and_unknown_poolings_are_refused():
    with pytest.raises(ValueError, match="one layer at least"):
        attention_rollout([])
    with pytest.raises(ValueError, match="pooling must be"):
        lead_relevance(encoder(), ecgs(), pooling="max")
