"""Indicators of cardiac function and diseases, from the tokens of an ECG or of a cine.

A head for indicators (regression on z-scores) and one for diseases, over any `TokenEncoder`; age, sex and
other covariates modulate the encoder's features by FiLM (Perez et al. 2018), which begins as identity.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.ecg_cmr.masking import encode_sparsely
from models.ecg_cmr.transformer import TokenEncoder, check_pooling, initialize, pool_tokens

SMALLEST_DEVIATION = 1e-6
"""Deviation, as a share of the mean's size, below which a column counts as constant and is only centered."""


class CovariateFiLM(nn.Module):
    """Scale and shift features by covariates: ``(1 + gamma) * features + beta``, both zero at the start.

    Parameters
    ----------
    covariates : int
        Columns; each also brings a flag that says whether it is known.
    channels : int
        Of the features.
    hidden : int
    """

    def __init__(self, covariates: int, channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.modulation = nn.Sequential(
            nn.Linear(2 * covariates, hidden), nn.GELU(), nn.Linear(hidden, 2 * channels)
        )
        last = self.modulation[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, covariates: Tensor) -> Tensor:
        """Map features (B, channels) and covariates with flags (B, 2 * covariates) to (B, channels)."""
        gamma, beta = self.modulation(covariates).chunk(2, dim=-1)
        return (1 + gamma) * features + beta


class PhenotypeModel(nn.Module):
    """Indicators and diseases from a signal.

    Parameters
    ----------
    encoder : TokenEncoder
        Of ECGs or of cines; from scratch, pre-trained, or aligned.
    indicators, diseases : int
        Number of outputs; one of them may be 0.
    covariates : int
        Columns that `forward` also takes, in their own units, NaN where not known.
    film : bool
        Covariates modulate the features; else they are put beside them.
    pooling : {"mean", "class"}
        What the heads read: the mean of the patch tokens, or the class token.
    hidden : int
        Units of the heads' hidden layer.
    dropout : float
        In the heads.
    token_dropout : float
        Share of the tokens left out of each training step, to save time; 0: none.
    freeze_encoder : bool
        Train the heads only.

    Notes
    -----
    Call `fit_targets` with the training patients before training: the z-scores' mean and deviation are
    buffers, so checkpoints hold them. Without it indicators and covariates count as z-scored already.
    """

    indicator_mean: Tensor
    indicator_deviation: Tensor
    covariate_mean: Tensor
    covariate_deviation: Tensor

    def __init__(
        self,
        encoder: TokenEncoder,
        indicators: int,
        diseases: int,
        covariates: int = 0,
        *,
        film: bool = True,
        pooling: str = "mean",
        hidden: int = 128,
        dropout: float = 0.1,
        token_dropout: float = 0.0,
        freeze_encoder: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(indicators, diseases, covariates, token_dropout)
        self.encoder, self.pooling = encoder, check_pooling(pooling)
        self.covariates, self.token_dropout = covariates, token_dropout
        width = encoder.token_width
        self.film = CovariateFiLM(covariates, width) if film and covariates else None
        inputs = width if film else width + 2 * covariates
        counts = {"indicators": indicators, "diseases": diseases}
        self.heads = nn.ModuleDict(
            {name: _head(inputs, hidden, dropout, count) for name, count in counts.items() if count}
        )
        for name, count in (("indicator", indicators), ("covariate", covariates)):
            self.register_buffer(f"{name}_mean", torch.zeros(count))
            self.register_buffer(f"{name}_deviation", torch.ones(count))
        self.frozen = freeze_encoder
        if freeze_encoder:
            encoder.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> PhenotypeModel:
        """Set training or evaluation; a frozen encoder stays in evaluation."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    @torch.no_grad()
    def fit_targets(self, indicators: Tensor | None = None, covariates: Tensor | None = None) -> None:
        """Take mean and deviation of every column from the training patients.

        Parameters
        ----------
        indicators, covariates : torch.Tensor, shapes (patients, columns), optional
            In their own units; what is not finite is not known.

        Raises
        ------
        ValueError
            If a column is not known for any patient.
        """
        for name, table in (("indicator", indicators), ("covariate", covariates)):
            if table is not None:
                mean, deviation = column_statistics(table, name)
                getattr(self, f"{name}_mean").copy_(mean)
                getattr(self, f"{name}_deviation").copy_(deviation)

    def forward(
        self, signal: Tensor, present: Tensor | None = None, covariates: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Predict from a batch.

        Parameters
        ----------
        signal, present : torch.Tensor
            As the encoder takes them.
        covariates : torch.Tensor, shape (B, covariates)
            In their own units, NaN where not known.

        Returns
        -------
        dict of str to torch.Tensor
            ``indicators`` (B, indicators), z-scored, and ``diseases`` (B, diseases), logits: those there are.
        """
        dropped = self.token_dropout if self.training and not self.frozen else 0.0
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            encoded, known = encode_sparsely(self.encoder, signal, present, dropped)
        return self.predict(pool_tokens(encoded, known, self.pooling), covariates)

    def predict(self, features: Tensor, covariates: Tensor | None = None) -> dict[str, Tensor]:
        """Predict from the encoder's pooled features (B, C); covariates and result as of `forward`."""
        features = self._with_covariates(features, covariates)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def features(self, signal: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the encoder's pooled features of a signal, (B, C), for `predict`; no token is dropped."""
        encoded, known = encode_sparsely(self.encoder, signal, present)
        return pool_tokens(encoded, known, self.pooling)

    def losses(
        self,
        outputs: dict[str, Tensor],
        indicators: Tensor | None = None,
        diseases: Tensor | None = None,
        disease_weight: float = 1.0,
    ) -> dict[str, Tensor]:
        """Compare outputs of `forward` with what is known.

        Parameters
        ----------
        outputs : dict of str to torch.Tensor
        indicators : torch.Tensor, shape (B, indicators)
            In their own units, NaN where not known.
        diseases : torch.Tensor, shape (B, diseases)
            0, 1, or NaN where not known.
        disease_weight : float
            Of the diseases' loss in the sum.

        Returns
        -------
        dict of str to torch.Tensor
            ``loss``, ``indicator_loss`` (mean squared error of z-scores) and ``disease_loss`` (binary
            cross-entropy): means over known values, 0 where none is; the latter two as there are targets.
        """
        losses = {}
        if indicators is not None:
            target = (indicators - self.indicator_mean) / self.indicator_deviation
            losses["indicator_loss"] = _masked_mean(functional.mse_loss, outputs["indicators"], target)
        if diseases is not None:
            losses["disease_loss"] = _masked_mean(
                functional.binary_cross_entropy_with_logits, outputs["diseases"], diseases
            )
        if not losses:
            raise ValueError("Give indicators, diseases or both: without any there is nothing to compare.")
        weights = {"indicator_loss": 1.0, "disease_loss": disease_weight}
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return {"loss": total, **losses}

    def in_units(self, indicators: Tensor) -> Tensor:
        """Bring predicted z-scores (B, indicators) back to the indicators' own units."""
        return indicators.float() * self.indicator_deviation + self.indicator_mean

    def _with_covariates(self, features: Tensor, covariates: Tensor | None) -> Tensor:
        """Return features (B, C) modulated by covariates, or with them beside."""
        given = 0 if covariates is None else covariates.shape[-1]
        if given != self.covariates:
            raise ValueError(f"This model takes {self.covariates} covariates, and {given} were given.")
        if covariates is None:
            return features
        known = covariates.isfinite()
        scores = ((covariates - self.covariate_mean) / self.covariate_deviation).where(known, 0.0)
        described = torch.cat([scores, known.to(scores.dtype)], dim=-1).to(features.dtype)
        if self.film is not None:
            return self.film(features, described)
        return torch.cat([features, described], dim=-1)


def column_statistics(table: Tensor, name: str = "target") -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each column (patients, columns) over its finite values.

    A constant column gets deviation 1.
    """
    known = table.isfinite()
    count = known.sum(dim=0)
    if not bool(count.all()):
        empty = (count == 0).nonzero().flatten().tolist()
        raise ValueError(
            f"No training patient has a value in {name} columns {empty} (from 0): leave these columns out, "
            "or train on patients who have them."
        )
    values = table.double().where(known, 0.0)
    mean = values.sum(dim=0) / count
    deviation = (((values - mean) * known).square().sum(dim=0) / count).sqrt()
    constant = deviation <= SMALLEST_DEVIATION * mean.abs().clamp(min=SMALLEST_DEVIATION)
    return mean.to(table.dtype), deviation.masked_fill(constant, 1.0).to(table.dtype)


def _masked_mean(loss: Callable[..., Tensor], predicted: Tensor, target: Tensor) -> Tensor:
    """Return a loss averaged over the finite targets; 0, still with a gradient of zeros, where none is."""
    known = target.isfinite()
    values = loss(predicted.float(), target.float().where(known, 0.0), reduction="none")
    return (values * known).sum() / known.sum().clamp(min=1)


def _head(inputs: int, hidden: int, dropout: float, outputs: int) -> nn.Sequential:
    """Return the dense layers from features (B, inputs) to (B, outputs)."""
    head = nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )
    return head.apply(initialize)


def _check_arguments(indicators: int, diseases: int, covariates: int, token_dropout: float) -> None:
    """Refuse settings that make no model, saying which would."""
    if min(indicators, diseases, covariates) < 0 or indicators + diseases < 1:
        raise ValueError(
            "indicators, diseases and covariates count columns, and there must be an indicator or a disease; "
            f"they are {indicators}, {diseases} and {covariates}."
        )
    if not 0 <= token_dropout < 1:
        raise ValueError(f"token_dropout must be in [0, 1), and is {token_dropout}.")
