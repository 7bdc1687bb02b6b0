"""Indicators of cardiac function and diseases, from the tokens of an ECG or of a cine.

A head for indicators (regression on z-scores), one for diseases and one for targets with one class a
patient, over any `TokenEncoder`; age, sex and other covariates modulate the encoder's features by FiLM
(Perez et al. 2018), which begins as identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


class CovariateModulation(nn.Module):
    """`CovariateFiLM` of covariates in their own units, z-scored by the training patients.

    Parameters
    ----------
    covariates, channels : int
        As for `CovariateFiLM`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, covariates: int, channels: int) -> None:
        super().__init__()
        self.film = CovariateFiLM(covariates, channels)
        self.register_buffer("mean", torch.zeros(covariates))
        self.register_buffer("deviation", torch.ones(covariates))

    @torch.no_grad()
    def fit(self, covariates: Tensor) -> None:
        """Take mean and deviation from the training patients (patients, covariates), NaN where not known."""
        mean, deviation = column_statistics(covariates, "covariate")
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(self, features: Tensor, covariates: Tensor) -> Tensor:
        """Map features (B, channels) and covariates (B, K), NaN where not known, to (B, channels)."""
        described = with_flags(covariates, self.mean, self.deviation)
        return self.film(features, described.to(features.dtype))


class PhenotypeModel(nn.Module):
    """Indicators and diseases from a signal.

    Parameters
    ----------
    encoder : TokenEncoder
        Of ECGs or of cines; from scratch, pre-trained, or aligned.
    indicators, diseases : int
        Number of outputs; either may be 0.
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
    classes : sequence of int
        Number of classes of each target of which a patient has one class.
    balance : bool
        Weigh both sides of each disease, and each class, as if they were equally frequent in training.

    Notes
    -----
    Call `fit_targets` with the training patients before training: the z-scores' mean and deviation are
    buffers, so checkpoints hold them. Without it indicators and covariates count as z-scored already.
    """

    log_weights: Tensor

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
        classes: Sequence[int] = (),
        balance: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(indicators, diseases, covariates, token_dropout, classes)
        self.encoder, self.pooling = encoder, check_pooling(pooling)
        self.covariates, self.token_dropout = covariates, token_dropout
        width = encoder.token_width
        self.film = CovariateFiLM(covariates, width) if film and covariates else None
        inputs = width if film else width + 2 * covariates
        self.classes, self.balance = tuple(classes), balance
        counts = {"indicators": indicators, "diseases": diseases, "classes": sum(classes)}
        self.heads = nn.ModuleDict(
            {name: _head(inputs, hidden, dropout, count) for name, count in counts.items() if count}
        )
        for name, count in (("indicator", indicators), ("covariate", covariates)):
            self.register_buffer(f"{name}_mean", torch.zeros(count))
            self.register_buffer(f"{name}_deviation", torch.ones(count))
        if balance:  # of the healthy, of the diseased, of each class
            self.register_buffer("log_weights", torch.zeros(2 * diseases + sum(classes)))
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

    @torch.no_grad()
    def fit_weights(self, diseases: Tensor, classes: Tensor) -> None:
        """Take the weight of each side of each disease, and of each class, from the training patients.

        It is ``n / (k * n_class)`` of ``n`` patients in ``k`` classes; 1 where one of them has no patient.

        Parameters
        ----------
        diseases, classes : torch.Tensor, shapes (patients, columns)
            0 or 1, and numbers of classes; NaN where not known.
        """
        sides = torch.stack([(diseases == side).sum(dim=0) for side in (0, 1)], dim=1).float()
        counts = [*sides] + [
            torch.bincount(column[column.isfinite()].long(), minlength=count).float()
            for column, count in zip(classes.unbind(dim=1), self.classes, strict=True)
        ]
        weights = [_balanced_log_weights(count) for count in counts]
        of_sides, of_classes = weights[: len(sides)], weights[len(sides) :]
        ordered = [torch.stack(of_sides).T.flatten()] if of_sides else []
        self.log_weights.copy_(torch.cat([*ordered, *of_classes]))

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
            ``indicators`` (B, indicators), z-scored, ``diseases`` (B, diseases) and ``classes`` (B, all
            classes), logits: those there are.
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
        classes: Tensor | None = None,
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
        classes : torch.Tensor, shape (B, targets)
            Number of the class, or NaN where not known.
        disease_weight : float
            Of the diseases' loss in the sum.

        Returns
        -------
        dict of str to torch.Tensor
            ``loss``, ``indicator_loss`` (mean squared error of z-scores), ``disease_loss`` (binary
            cross-entropy) and ``class_loss`` (cross-entropy): means over known values, 0 where none is; the
            latter three as there are targets.
        """
        losses = {}
        if indicators is not None:
            target = (indicators - self.indicator_mean) / self.indicator_deviation
            losses["indicator_loss"] = _masked_mean(functional.mse_loss, outputs["indicators"], target)
        if diseases is not None:
            each = self._weights_of(diseases) if self.balance else None
            losses["disease_loss"] = _masked_mean(
                functional.binary_cross_entropy_with_logits, outputs["diseases"], diseases, each
            )
        if classes is not None:
            losses["class_loss"] = self._class_loss(outputs["classes"].float(), classes)
        if not losses:
            raise ValueError("Give indicators, diseases or classes: without any there is nothing to compare.")
        weights = {"indicator_loss": 1.0, "disease_loss": disease_weight, "class_loss": disease_weight}
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return {"loss": total, **losses}

    def in_units(self, indicators: Tensor) -> Tensor:
        """Bring predicted z-scores (B, indicators) back to the indicators' own units."""
        return indicators.float() * self.indicator_deviation + self.indicator_mean

    def probabilities(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the probabilities of ``diseases`` (B, diseases) and ``classes`` (B, all classes) there are.

        Those of a balanced loss hold where all are equally frequent; here they are brought back to the shares
        of the training part.
        """
        found, shift = {}, self.log_weights if self.balance else None
        if "diseases" in outputs:
            logits = outputs["diseases"].float()
            if shift is not None:
                healthy, diseased = shift[: 2 * logits.shape[1]].chunk(2)
                logits = logits - diseased + healthy
            found["diseases"] = logits.sigmoid()
        if "classes" in outputs:
            logits = outputs["classes"].float()
            logits = logits if shift is None else logits - shift[-logits.shape[1] :]
            parts = logits.split(list(self.classes), dim=1)
            found["classes"] = torch.cat([part.softmax(dim=1) for part in parts], dim=1)
        return found

    def _weights_of(self, diseases: Tensor) -> Tensor:
        """Return the weight of each label of each disease, (B, diseases)."""
        healthy, diseased = self.log_weights[: 2 * diseases.shape[1]].exp().chunk(2)
        return torch.where(diseases == 1, diseased, healthy)

    def _class_loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Return the mean cross-entropy over the classes that are known, of all targets."""
        known = classes.isfinite()
        weights = self.log_weights[-logits.shape[1] :].exp() if self.balance else torch.ones_like(logits[0])
        total = logits.sum() * 0
        sizes = list(self.classes)
        parts = zip(logits.split(sizes, dim=1), weights.split(sizes), strict=True)
        for column, (part, weight) in enumerate(parts):
            rows = known[:, column]
            total = total + functional.cross_entropy(
                part[rows], classes[rows, column].long(), weight, reduction="sum"
            )
        return total / known.sum().clamp(min=1)

    def _with_covariates(self, features: Tensor, covariates: Tensor | None) -> Tensor:
        """Return features (B, C) modulated by covariates, or with them beside."""
        given = 0 if covariates is None else covariates.shape[-1]
        if given != self.covariates:
            raise ValueError(f"This model takes {self.covariates} covariates, and {given} were given.")
        if covariates is None:
            return features
        described = with_flags(covariates, self.covariate_mean, self.covariate_deviation).to(features.dtype)
        if self.film is not None:
            return self.film(features, described)
        return torch.cat([features, described], dim=-1)


def with_flags(covariates: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return z-scores (B, K), 0 where not known, and beside them whether they are known, (B, 2 K)."""
    known = covariates.isfinite()
    scores = ((covariates - mean) / deviation).where(known, 0.0)
    return torch.cat([scores, known.to(scores.dtype)], dim=-1)


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


def _balanced_log_weights(counts: Tensor) -> Tensor:
    """Return the logarithm of the weight of each class (K,); zeros where one of them has no patient."""
    if not bool((counts > 0).all()):
        return torch.zeros_like(counts)
    return (counts.sum() / (len(counts) * counts)).log()


def _masked_mean(
    loss: Callable[..., Tensor], predicted: Tensor, target: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return a loss averaged over the finite targets; 0, still with a gradient of zeros, where none is."""
    known = target.isfinite()
    values = loss(predicted.float(), target.float().where(known, 0.0), reduction="none")
    values = values if weights is None else values * weights
    return (values * known).sum() / known.sum().clamp(min=1)


def _head(inputs: int, hidden: int, dropout: float, outputs: int) -> nn.Sequential:
    """Return the dense layers from features (B, inputs) to (B, outputs)."""
    head = nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )
    return head.apply(initialize)


def _check_arguments(
    indicators: int, diseases: int, covariates: int, token_dropout: float, classes: Sequence[int]
) -> None:
    """Refuse settings that make no model, saying which would."""
    if min(indicators, diseases, covariates) < 0 or indicators + diseases + len(classes) < 1:
        raise ValueError(
            "indicators, diseases and covariates count columns, and there must be an indicator or a disease "
            f"or classes; they are {indicators}, {diseases} and {covariates}."
        )
    if any(count < 2 for count in classes):
        raise ValueError(f"A target of classes has two or more of them, and one has {min(classes)}.")
    if not 0 <= token_dropout < 1:
        raise ValueError(f"token_dropout must be in [0, 1), and is {token_dropout}.")
