"""Transformer parts for patches of signals and of cines: blocks, positions, and the encoder of tokens.

Pre-norm blocks of the vision transformer (Dosovitskiy et al. 2021) on torch's
`scaled_dot_product_attention`. MONAI's block was tried and left: it always owns a normalization for cross
attention, whose weights get no gradient and stop `DistributedDataParallel`; its fast path drops attention in
evaluation too and takes another mask than its slow one; and it stores attention maps as state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_MLP_RATIO = 4
"""Hidden units of a block's dense network, per channel."""

_START = 1.5
"""Factor on Glorot's queries and keys at the start: attention then differs between tokens from step one."""

_POOLINGS = ("mean", "class")
"""How tokens become one vector: mean of the usable patch tokens, or the class token."""


_PLAIN_TOKENS = 512
"""Tokens up to which a training step in bfloat16 on a CPU takes plain products (docs/speed.md)."""


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Return attention, (B, heads, N, C / heads): torch's kernel, or the same to rounding by plain products.

    The backward pass of torch's kernel takes two to three times as long in bfloat16 on a CPU.
    """
    slow = query.requires_grad and query.device.type == "cpu" and query.dtype == torch.bfloat16
    if not slow or query.shape[-2] > _PLAIN_TOKENS:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    scores = query / query.shape[-1] ** 0.5 @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, float("-inf"))
    return functional.dropout(scores.softmax(dim=-1), dropout) @ value


class SelfAttention(nn.Module):
    """Multi-head self-attention in which some tokens may be closed to all.

    Parameters
    ----------
    channels : int
        Of a token; a multiple of ``heads``.
    heads : int
    dropout : float
        Of the attention weights, in training only.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"channels must be a multiple of heads, and are {channels} and {heads}.")
        self.heads, self.dropout = heads, dropout
        self.project = nn.Linear(channels, 3 * channels)
        self.merge = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, attendable: Tensor | None = None) -> Tensor:
        """Map (B, N, C) to (B, N, C); nothing is read from tokens where ``attendable`` (B, N) is False."""
        query, key, value = self._split(tokens)
        mask = None if attendable is None else attendable[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        mixed = _attend(query, key, value, mask, dropout)
        return self.merge(mixed.transpose(1, 2).flatten(2))

    def forward_with_maps(self, tokens: Tensor, attendable: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, to rounding, and the attention (B, heads, N, N) that it came from."""
        maps = self.maps(tokens, attendable)
        if torch.is_grad_enabled() and not maps.requires_grad:  # of a frozen network, for its gradient
            maps.requires_grad_()
        value = self._split(tokens)[2]
        return self.merge((maps.to(value.dtype) @ value).transpose(1, 2).flatten(2)), maps

    def maps(self, tokens: Tensor, attendable: Tensor | None = None) -> Tensor:
        """Return the attention (B, heads, N, N) that `forward` gives; each row sums to one."""
        query, key, _ = self._split(tokens)
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        if attendable is not None:
            scores = scores.masked_fill(~attendable[:, None, None, :], float("-inf"))
        return scores.float().softmax(dim=-1)

    @torch.no_grad()
    def tie_query_and_key(self) -> None:
        """Let attention favour similar tokens at first: keys start as the queries, both larger.

        At the start tokens share only their positions, so the similar ones are those of the same time in
        other leads, or of the same lead at other times. Attention from a random start stays at the mean of
        all tokens: with separate queries and keys a masked autoencoder of ECGs is no better than the lead's
        mean after 500 steps; tied, it has 0.91 of that error after 400. After Trockman and Kolter (arXiv
        2305.09828).
        """
        query, key, _ = self.project.weight.chunk(3)
        query.mul_(_START)
        key.copy_(query)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value, (B, heads, N, C / heads) each."""
        query, key, value = self.project(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value


class TransformerBlock(nn.Module):
    """Self-attention and a dense network, each after a normalization and added to its input."""

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = SelfAttention(channels, heads, dropout)
        self.dense_norm = nn.LayerNorm(channels)
        self.dense = nn.Sequential(
            nn.Linear(channels, _MLP_RATIO * channels),
            nn.GELU(),
            nn.Linear(_MLP_RATIO * channels, channels),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor, attendable: Tensor | None = None) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        tokens = tokens + self.attention(self.attention_norm(tokens), attendable)
        return tokens + self.dense(self.dense_norm(tokens))

    def forward_with_maps(self, tokens: Tensor, attendable: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, to rounding, and the attention (B, heads, N, N) that it came from."""
        mixed, maps = self.attention.forward_with_maps(self.attention_norm(tokens), attendable)
        tokens = tokens + mixed
        return tokens + self.dense(self.dense_norm(tokens)), maps


class Transformer(nn.Module):
    """Blocks, and a normalization at their end.

    Parameters
    ----------
    channels, depth, heads : int
        Of a token; number of blocks; attention heads.
    dropout : float
    """

    def __init__(self, channels: int, depth: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if depth < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"depth must be at least 1 and dropout in [0, 1); they are {depth} and {dropout}."
            )
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(channels)
        self.apply(initialize)
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            block.attention.tie_query_and_key()

    def forward(self, tokens: Tensor, attendable: Tensor | None = None) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        for block in self.blocks:
            tokens = block(tokens, attendable)
        return self.norm(tokens)

    def forward_with_attention(
        self, tokens: Tensor, attendable: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return what `forward` does, to rounding, and each block's attention (B, heads, N, N)."""
        found = []
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            tokens, maps = block.forward_with_maps(tokens, attendable)
            found.append(maps)
        return self.norm(tokens), found


def initialize(module: nn.Module) -> None:
    """Initialize a dense layer by Glorot's rule, with biases zero, as masked autoencoders do."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def sine_positions(grid: Sequence[int], channels: int) -> Tensor:
    """Return sine and cosine positions (N, channels) of the N cells of a grid, last axis fastest.

    The channels are shared out evenly over the axes longer than one; what is left over stays zero. Waves are
    from 2 pi cells to about 8 pi axes long, and each channel has mean 0 and deviation 1 over the cells: the
    usual waves (Vaswani et al. 2017) are made for sentences; half of them are almost constant over 25
    patches, and a network is then slow to distinguish patches.
    """
    axes = [axis for axis, length in enumerate(grid) if length > 1]
    pairs = channels // (2 * max(len(axes), 1))
    if pairs < 1:
        raise ValueError(f"{channels} channels are too few for the positions of a grid {tuple(grid)}.")
    cells = torch.cartesian_prod(*[torch.arange(length, dtype=torch.float64) for length in grid])
    cells = cells.reshape(-1, len(grid))
    waves = [cells.new_zeros(len(cells), 0)]
    for axis in axes:
        frequencies = (4.0 * grid[axis]) ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
        angles = cells[:, axis, None] * frequencies
        waves += [angles.sin(), angles.cos()]
    table = torch.cat(waves, dim=1)
    if axes:
        table = (table - table.mean(dim=0)) / table.std(dim=0, unbiased=False)
    return functional.pad(table, (0, channels - table.shape[1])).float()


@dataclass(frozen=True)
class Patches:
    """A batch cut into patches and standardized.

    Attributes
    ----------
    values : torch.Tensor, shape (B, N, P)
        Standardized values of the patches; zero where a patch is not usable.
    usable : torch.Tensor of bool, shape (B, N)
        Which patches carry a signal.
    mean, scale : torch.Tensor
        What leads back to the signal's unit, of shapes that broadcast with the signal.
    """

    values: Tensor
    usable: Tensor
    mean: Tensor
    scale: Tensor


class TokenEncoder(nn.Module):
    """A transformer over the patches of a signal and a class token; subclasses define the signal.

    Parameters
    ----------
    patch_values : int
        Values of a patch.
    token_width, depth, heads : int
        Channels of a token; blocks; attention heads.
    dropout : float
    """

    def __init__(
        self, patch_values: int, token_width: int, depth: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.patch_values, self.token_width, self.depth = patch_values, token_width, depth
        self.embedding = nn.Linear(patch_values, token_width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, token_width))
        self.transformer = Transformer(token_width, depth, heads, dropout)
        initialize(self.embedding)
        nn.init.normal_(self.class_token, std=0.02)

    def patches(self, signal: Tensor, present: Tensor | None = None) -> Patches:
        """Check a batch, standardize it, and cut it into patches."""
        raise NotImplementedError

    def to_signal(self, values: Tensor) -> Tensor:
        """Put patches (B, N, P) together to a signal, without changing values."""
        raise NotImplementedError

    def positions(self) -> Tensor:
        """Return where each patch lies, (N, token_width)."""
        raise NotImplementedError

    def regions(self, tokens: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Average patch tokens (B, N, C) to parts (B, R, C), and return which parts are usable, (B, R)."""
        raise NotImplementedError

    def tokens(self, patches: Patches) -> Tensor:
        """Return the tokens (B, N, token_width) of patches, with their positions."""
        return self.embedding(patches.values) + self.positions()

    def with_class_token(self, tokens: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, 1 + N, C) and which may be attended to, (B, 1 + N)."""
        first = self.class_token.expand(len(tokens), -1, -1).to(tokens.dtype)
        return torch.cat([first, tokens], dim=1), functional.pad(usable, (1, 0), value=True)

    def run(self, tokens: Tensor, usable: Tensor) -> Tensor:
        """Map tokens (B, N, C) to encoded (B, 1 + N, C), class token first, zero where not usable."""
        tokens, attendable = self.with_class_token(tokens, usable)
        return self.transformer(tokens, attendable) * attendable.unsqueeze(-1)

    def encode_with_mask(self, signal: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the encoded tokens (B, 1 + N, C) and which patches are usable, (B, N)."""
        patches = self.patches(signal, present)
        return self.run(self.tokens(patches), patches.usable), patches.usable

    def encode(self, signal: Tensor, present: Tensor | None = None) -> Tensor:
        """Map a batch to its tokens (B, 1 + N, C), class token first; zero for unusable patches."""
        return self.encode_with_mask(signal, present)[0]

    def encode_with_attention(
        self, signal: Tensor, present: Tensor | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return what `encode_with_mask` does, and each block's attention (B, heads, 1 + N, 1 + N)."""
        patches = self.patches(signal, present)
        tokens, attendable = self.with_class_token(self.tokens(patches), patches.usable)
        encoded, maps = self.transformer.forward_with_attention(tokens, attendable)
        return encoded * attendable.unsqueeze(-1), patches.usable, maps


def mean_of(tokens: Tensor, usable: Tensor, dim: int = 1) -> Tensor:
    """Average tokens (..., C) over an axis where usable (...) is True; zero where nothing is."""
    weight = usable.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weight).sum(dim=dim) / weight.sum(dim=dim).clamp(min=1)


def pool_tokens(encoded: Tensor, usable: Tensor, pooling: str = "mean") -> Tensor:
    """Map encoded tokens (B, 1 + N, C), class token first, and usable patches (B, N) to (B, C)."""
    return encoded[:, 0] if pooling == "class" else mean_of(encoded[:, 1:], usable)


def check_pooling(pooling: str) -> str:
    """Return the pooling, refusing one that is not known."""
    if pooling not in _POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(_POOLINGS)}, and is {pooling!r}.")
    return pooling
