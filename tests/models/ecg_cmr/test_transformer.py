"""Transformer parts: what attention reads, positions, pooling, and what is refused."""

import math

import pytest
import torch
from torch import nn

from models.ecg_cmr.transformer import (
    SelfAttention,
    Transformer,
    TransformerBlock,
    check_pooling,
    mean_of,
    pool_tokens,
    sine_positions,
)


def tokens(count: int = 6, channels: int = 8, batch: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, count, channels, generator=torch.Generator().manual_seed(seed))


def transformer(seed: int = 0, dropout: float = 0.0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(8, 2, 2, dropout)


def test_maps_are_the_attention_that_is_used():
    torch.manual_seed(0)
    attention, given = SelfAttention(8, 2), tokens()
    attendable = torch.tensor([[True] * 6, [True] * 3 + [False] * 3, [True] + [False] * 5])
    maps = attention.maps(given, attendable)
    assert torch.allclose(maps.sum(dim=-1), torch.ones(3, 2, 6))
    value = attention.project(given)[..., 16:].unflatten(-1, (2, 4)).transpose(1, 2)
    by_hand = attention.merge((maps @ value).transpose(1, 2).flatten(2))
    assert torch.allclose(attention(given, attendable), by_hand, atol=1e-6)
    assert (maps[1, :, :, 3:] == 0).all()


def test_learning_in_bfloat16_attends_as_the_kernel_does():
    torch.manual_seed(0)
    attention, given = SelfAttention(8, 2), tokens()
    attendable = torch.tensor([[True] * 6, [True] * 3 + [False] * 3, [True] + [False] * 5])
    weight = attention.project.weight
    (exact,) = torch.autograd.grad(attention(given, attendable).square().sum(), weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        learning = attention(given, attendable)
        with torch.no_grad():
            kernel = attention(given, attendable)
    (found,) = torch.autograd.grad(learning.float().square().sum(), weight)
    assert torch.allclose(learning, kernel, atol=0.02)
    assert torch.allclose(found, exact, atol=0.03 * float(exact.abs().max()))


def test_attention_starts_at_tokens_that_are_alike():
    """Glorot's own start spreads attention over all; here a token finds its copy among 19 others at once."""
    torch.manual_seed(0)
    model = Transformer(64, 2, 4)
    given = tokens(20, 64, batch=4)
    given[:, 10:] = given[:, :10]
    attention = model.forward_with_attention(given)[1][0].mean(dim=(0, 1))
    own = attention.diagonal()
    copies = torch.stack([attention[k, k + 10] for k in range(10)])
    assert own[:10].min() > 2 / 20 and torch.allclose(copies, own[:10], atol=1e-5)


def test_forward_with_attention_gives_the_same_tokens():
    model, given = transformer(), tokens()
    found, maps = model.forward_with_attention(given)
    assert torch.allclose(found, model(given), atol=1e-6)
    assert [tuple(layer.shape) for layer in maps] == [(3, 2, 6, 6)] * 2


def test_closed_tokens_are_not_read_by_the_others():
    model, given = transformer(), tokens()
    attendable = torch.tensor([True, True, False, True, True, False]).expand(3, -1)
    changed = given.clone()
    changed[:, ~attendable[0]] = 1e4
    first, second = model(given, attendable), model(changed, attendable)
    assert torch.equal(first[:, attendable[0]], second[:, attendable[0]])
    assert not torch.allclose(model(given)[:, 0], model(changed)[:, 0]), "open, they are read"


def test_every_weight_learns():
    """A weight without gradient stops training in several processes."""
    model = transformer()
    (model(tokens()) * tokens(seed=1)).sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_dropout_is_for_training_only():
    model, given = transformer(dropout=0.5), tokens()
    assert not torch.equal(model(given), model(given))
    model.eval()
    assert torch.equal(model(given), model(given))


def test_positions_of_a_line():
    """Five cells, two waves: of one radian a cell, and of one over the square root of four times five."""
    cells = torch.arange(5, dtype=torch.float64)
    slow = cells / math.sqrt(20)
    waves = torch.stack([cells.sin(), slow.sin(), cells.cos(), slow.cos()], dim=1)
    expected = (waves - waves.mean(dim=0)) / waves.std(dim=0, unbiased=False)
    assert torch.allclose(sine_positions((5,), 4), expected.float(), atol=1e-6)


def test_positions_of_a_grid_tell_cells_apart_and_run_with_the_last_axis_fastest():
    table = sine_positions((1, 3, 4), 10)
    assert table.shape == (12, 10)
    assert len(table.unique(dim=0)) == 12
    assert torch.equal(table[:4, :4], table[:1, :4].expand(4, -1)), "the first four cells share a row"
    assert torch.equal(table[::4, 4:8], table[:1, 4:8].expand(3, -1)), "every fourth shares a column"
    assert (table[:, 8:] == 0).all(), "what cannot be shared out stays empty"
    assert (sine_positions((1, 1), 4) == 0).all(), "one cell needs no position"


@pytest.mark.parametrize("grid", [(25,), (1, 8, 8), (4, 8, 8), (2,)])
def test_every_channel_of_the_positions_tells_something(grid):
    table = sine_positions(grid, 128)[:, : 128 // len(grid) // 2 * 2]
    assert table.isfinite().all()
    assert torch.allclose(table.mean(dim=0), torch.zeros(table.shape[1]), atol=1e-4)
    assert torch.allclose(table.std(dim=0, unbiased=False), torch.ones(table.shape[1]), atol=1e-3)


def test_mean_and_pooling_leave_out_what_is_not_usable():
    encoded = torch.tensor([[[9.0], [1.0], [3.0], [100.0]], [[7.0], [1.0], [1.0], [1.0]]])
    usable = torch.tensor([[True, True, False], [False, False, False]])
    assert pool_tokens(encoded, usable).tolist() == [[2.0], [0.0]]
    assert pool_tokens(encoded, usable, "class").tolist() == [[9.0], [7.0]]
    assert mean_of(encoded[:, 1:], usable).tolist() == [[2.0], [0.0]]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SelfAttention(10, 4), "multiple of heads"),
        (lambda: TransformerBlock(8, 0), "multiple of heads"),
        (lambda: Transformer(8, 0, 2), "depth must be at least 1"),
        (lambda: Transformer(8, 1, 2, 1.0), "dropout in"),
        (lambda: sine_positions((2, 3, 4), 5), "too few"),
        (lambda: check_pooling("max"), "mean, class"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_dense_weights_start_by_glorot_and_biases_at_zero():
    layers = [module for module in transformer().modules() if isinstance(module, nn.Linear)]
    assert len(layers) == 8
    for layer in layers:
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        weight = layer.weight.detach()[-layer.in_features :]  # of queries, keys and values the values
        assert 0.8 * bound < float(weight.abs().max()) <= bound
        assert (layer.bias == 0).all()
