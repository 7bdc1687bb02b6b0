"""One network takes ECG and heart sound, or one of them, and what is absent has no effect."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import TAKES_ABSENCE, build_model
from models.layers.absence import fill_rows
from models.layers.layout import as_images

ECG_ONLY = torch.tensor([True, True, True, False, False])
PCG_ONLY = torch.tensor([True, False, False, True, True])
NONE = torch.zeros(5, dtype=torch.bool)
MASKS = {"has_ecg": ECG_ONLY, "has_pcg": PCG_ONLY}
"""Five samples: one with both signals, two with the ECG, two with the heart sound."""


def network(name: str, absence_tokens: bool = True) -> Any:
    torch.manual_seed(0)
    options = {"absence_tokens": True} if absence_tokens else {}
    model = build_model(name, width=8, dropout=0.0, **options)
    for key, weight in model.named_parameters():
        if "absence" in key:  # zero at first; here they have an effect
            nn.init.normal_(weight)
    return model


def signals(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ecg, pcg = torch.randn(2, 5, 1, 125, generator=generator)
    return ecg, pcg


def with_other(signal: Tensor, kept: Tensor, value: float) -> Tensor:
    return torch.where(kept[:, None, None], signal, torch.tensor(value))


@pytest.mark.parametrize("name", TAKES_ABSENCE)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("value", [0.0, 1e6, torch.nan])
def test_an_absent_signal_can_hold_anything(name, training, value):
    ecg, pcg = signals()
    results = []
    for first, second in ((ecg, pcg), (with_other(ecg, ECG_ONLY, value), with_other(pcg, PCG_ONLY, value))):
        model = network(name).train(training)
        torch.manual_seed(2)
        logits = model(first, second, **MASKS)
        logits.square().sum().backward()
        results.append([logits, *model.buffers(), *(weight.grad for weight in model.parameters())])
    assert results[0][0].isfinite().all()
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after), "outputs, running statistics and gradients are the same"


@pytest.mark.parametrize("name", TAKES_ABSENCE)
def test_a_present_signal_still_counts_beside_absent_ones(name):
    model, (ecg, pcg) = network(name).eval(), signals()
    before, after = model(ecg, pcg, **MASKS), model(ecg + 1, pcg, **MASKS)
    changed = (before != after).any(dim=1)
    assert torch.equal(changed, ECG_ONLY)


@pytest.mark.parametrize("name", TAKES_ABSENCE)
def test_left_out_masked_and_alone_give_one_prediction(name):
    model, (ecg, pcg) = network(name).eval(), signals()
    mixed = model(ecg, pcg, **MASKS)
    torch.testing.assert_close(mixed[1:3], model(ecg=ecg)[1:3])
    torch.testing.assert_close(mixed[3:], model(pcg=pcg)[3:])
    torch.testing.assert_close(mixed[:1], model(ecg, pcg)[:1])
    assert torch.equal(model(ecg=ecg), model(ecg, pcg, has_pcg=NONE))
    assert torch.equal(model(pcg=pcg), model(None, pcg, has_ecg=NONE, has_pcg=~NONE))


@pytest.mark.parametrize("name", TAKES_ABSENCE)
@pytest.mark.parametrize("training", [False, True])
def test_with_both_signals_it_is_the_network_without_tokens(name, training):
    plain, model = network(name, absence_tokens=False), network(name)
    model.load_state_dict(plain.state_dict(), strict=False)
    outputs = []
    for each in (plain, model):
        torch.manual_seed(2)
        outputs.append(each.train(training)(*signals()))
    assert torch.equal(*outputs)
    extra = {key for key in model.state_dict() if key not in plain.state_dict()}
    assert extra and all("absence" in key for key in extra)


def test_batch_normalization_of_an_encoder_counts_present_samples_alone():
    mixed, present = network("pacfnet"), network("pacfnet")
    ecg, pcg = signals()
    mixed(ecg, pcg, **MASKS)
    present.encoders["ecg"](as_images(ecg[ECG_ONLY]))
    present.encoders["pcg"](as_images(pcg[PCG_ONLY]))
    pairs = list(zip(mixed.encoders.buffers(), present.encoders.buffers(), strict=True))
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("name", TAKES_ABSENCE)
def test_a_batch_without_ecg_leaves_its_encoder_at_rest(name):
    model, (_, pcg) = network(name), signals()
    side = model.stems["ecg"] if name == "cross-attention" else model.encoders["ecg"]
    before = [buffer.clone() for buffer in side.buffers() if buffer.is_floating_point()]
    model(pcg=pcg)[:, 0].sum().backward()
    after = [buffer for buffer in side.buffers() if buffer.is_floating_point()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(weight.grad is not None and not weight.grad.any() for weight in side.parameters())
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("name", TAKES_ABSENCE)
def test_gradients_reach_every_token(name):
    model = network(name)
    model(*signals(), **MASKS).square().sum().backward()
    tokens = {key: weight for key, weight in model.named_parameters() if "absence" in key}
    assert len(tokens) == (2 if name in ("last-fusion", "cross-attention") else 8)
    assert all(token.grad is not None and token.grad.any() for token in tokens.values())


def test_a_token_fills_the_rows_between():
    found = torch.arange(12.0).reshape(2, 2, 3)
    token = torch.tensor([[[-1.0], [-2.0]]])
    filled = fill_rows(found, token, torch.tensor([False, True, False, True]))
    assert torch.equal(filled[[1, 3]], found)
    assert torch.equal(filled[0], torch.tensor([[-1.0] * 3, [-2.0] * 3]))
    assert torch.equal(filled[0], filled[2])


@pytest.mark.parametrize("name", TAKES_ABSENCE)
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "without any signal"),
        (dict(zip(("ecg", "pcg"), signals(), strict=True)) | MASKS | {"has_pcg": NONE}, r"Rows \[3, 4\]"),
        ({"ecg": signals()[0], "has_pcg": ~NONE}, "pcg is not given"),
        ({"ecg": signals()[0], "has_ecg": torch.ones(5)}, "has_ecg must be boolean"),
        ({"ecg": signals()[0], "has_ecg": torch.ones(4, dtype=torch.bool)}, r"of shape \(5,\)"),
        ({"ecg": signals()[0], "pcg": signals()[1][:, :, :100]}, "must have one shape"),
        ({"ecg": signals()[0][:, 0]}, "must have shape"),
    ],
)
def test_what_makes_no_sense_is_refused(name, inputs, message):
    with pytest.raises(ValueError, match=message):
        network(name)(**inputs)


@pytest.mark.parametrize("name", TAKES_ABSENCE)
def test_masks_need_tokens(name):
    with pytest.raises(ValueError, match="absence_tokens=True"):
        network(name, absence_tokens=False)(*signals(), **MASKS)
