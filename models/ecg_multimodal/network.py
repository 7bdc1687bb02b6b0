"""Classification from an ECG image, an ECG signal and a clinical table, or any of them.

A branch for each modality ends in features of one length. They are fused by a gate for each patient or by
concatenation; in late fusion each branch has its own logits, and their mean counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.ecg_multimodal.clinical_branch import ClinicalBranch
from models.ecg_multimodal.image_branch import ImageBranch
from models.ecg_multimodal.signal_branch import SignalBranch
from models.layers.absence import fill_rows, modality_mask

MODALITIES = ("image", "signal", "clinical")
FUSIONS = ("gate", "concatenation", "late")


class GateFusion(nn.Module):
    """Weigh the modalities of each patient by a softmax over those that are present.

    Parameters
    ----------
    count, features, hidden : int
        Number of modalities, length of their features, and length of the gate's hidden layer.
    """

    def __init__(self, count: int, features: int, hidden: int = 32) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(count * features + count, hidden), nn.ReLU(), nn.Linear(hidden, count)
        )

    def forward(self, slots: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, count, features) and (B, count) to the weighted sum (B, features) and gates (B, count)."""
        inputs = torch.cat([slots.flatten(1), present.to(slots.dtype)], dim=1)
        gates = self.gate(inputs).float().masked_fill(~present, -torch.inf).softmax(dim=1)
        return (gates.unsqueeze(-1) * slots).sum(dim=1), gates


class ConcatenationFusion(nn.Module):
    """Map all features side by side, and which are present, to features of one modality's length.

    Parameters
    ----------
    count, features : int
        Number of modalities, and length of their features.
    """

    def __init__(self, count: int, features: int) -> None:
        super().__init__()
        self.merge = nn.Sequential(
            nn.Linear(count * features + count, features), nn.LayerNorm(features), nn.ReLU()
        )

    def forward(self, slots: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, count, features) and (B, count) to (B, features) and equal weights (B, count)."""
        inputs = torch.cat([slots.flatten(1), present.to(slots.dtype)], dim=1)
        return self.merge(inputs), equal_weights(present)


class MultimodalNetwork(nn.Module):
    """Branches, fusion and heads; takes any patient who has at least one of its modalities.

    Parameters
    ----------
    classes : int
        Number of logits: 1 for abnormal, 5 for the superclasses.
    leads : int
        Leads of the signal.
    clinical_features : int
        Columns of the clinical table.
    modalities : sequence of str
        Among ``image``, ``signal``, ``clinical``; one alone is its branch and its head.
    fusion : {"gate", "concatenation", "late"}
    width : int
        Channels after the stems of image and signal branch, a multiple of 8. Features of a modality are
        4 * width: 64 for the small network of width 16, 256 for the published one of width 64.
    dropout : float
        Dropout of the branches' features and of the heads.
    image_size : tuple of int
        Height and width in pixels; (250, 2500) in the published network.
    kernel_size : int
        Kernel of the signal branch in points, odd.
    imagenet : bool
        Whether the image branch reads pictures as ImageNet weights expect them.
    exclusive : bool
        Whether the classes exclude each other (softmax); else each is its own yes or no (sigmoid).
    frozen : sequence of str
        Modalities whose branches keep their weights and statistics, or parts of branches, such as
        ``image.network``; the branches' own heads are trained.
    probe_branches : bool
        The branches' own heads read detached features. Their loss then trains the heads alone, so that they
        measure a branch without changing it. Not for late fusion, which is those heads.

    Notes
    -----
    Encoders get only the rows that have their modality. What the input holds elsewhere has no effect, and
    batch normalization of image and signal branch counts present rows alone (one row is enough, for it
    averages over pixels or time too). Missing-modality tokens replace the features of an absent modality;
    with the gate they have weight 0 and only inform it. A modality that the whole batch lacks runs its
    encoder on no rows, so its gradients are zero, not missing. Distributed training needs a gradient for
    every weight: train with ``with_branches=True`` and a loss that contains the branches' logits, if need be
    times 0.
    """

    def __init__(
        self,
        classes: int = 1,
        leads: int = 12,
        clinical_features: int = 0,
        *,
        modalities: Sequence[str] = MODALITIES,
        fusion: Literal["gate", "concatenation", "late"] = "gate",
        width: int = 16,
        dropout: float = 0.2,
        image_size: tuple[int, int] = (64, 640),
        kernel_size: int = 7,
        imagenet: bool = False,
        exclusive: bool = False,
        frozen: Sequence[str] = (),
        probe_branches: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(classes, modalities, fusion, width, dropout, probe_branches)
        if not {name.partition(".")[0] for name in frozen} <= set(modalities):
            raise ValueError(f"frozen must be among {', '.join(modalities)}, and is {', '.join(frozen)}.")
        self.modalities = tuple(name for name in MODALITIES if name in modalities)
        self.classes, self.exclusive, self.probe_branches = classes, exclusive, probe_branches
        features, count = 4 * width, len(self.modalities)
        make: dict[str, Any] = {
            "image": lambda: ImageBranch(features, width, image_size, dropout, imagenet=imagenet),
            "signal": lambda: SignalBranch(features, leads, width, kernel_size, dropout),
            "clinical": lambda: ClinicalBranch(features, clinical_features, features, dropout),
        }
        self.branches = nn.ModuleDict({name: make[name]() for name in self.modalities})
        self.branch_heads = nn.ModuleDict(
            {name: _classifier(features, dropout, classes) for name in self.modalities}
        )
        self.fusion: nn.Module | None = None
        if count > 1 and fusion != "late":
            fuse = GateFusion if fusion == "gate" else ConcatenationFusion
            self.fusion = fuse(count, features)
            self.head = _classifier(features, dropout, classes)
            self.tokens = nn.ParameterDict(
                {name: nn.Parameter(torch.zeros(1, features, 1)) for name in self.modalities}
            )
        self.frozen = tuple(frozen)
        for name in self.frozen:
            self.branches.get_submodule(name).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> MultimodalNetwork:
        """Set training or evaluation; frozen branches stay in evaluation."""
        super().train(mode)
        for name in self.frozen:
            self.branches.get_submodule(name).eval()
        return self

    def fit(self, signal: Tensor | None = None, clinical: Tensor | None = None) -> None:
        """Fit the scalers of the branches there are, on training rows that have the modality.

        Parameters
        ----------
        signal : torch.Tensor, shape (N, leads, T), optional
        clinical : torch.Tensor, shape (M, clinical_features), optional
            NaN where a value is missing.
        """
        for name, values in (("signal", signal), ("clinical", clinical)):
            if name not in self.modalities:
                continue
            if values is None:
                raise ValueError(f"This network reads the {name} modality: give its training rows to fit.")
            scaler: Any = self.branches[name].scaler
            scaler.fit(values)

    def forward(
        self,
        image: Tensor | None = None,
        signal: Tensor | None = None,
        clinical: Tensor | None = None,
        has_image: Tensor | None = None,
        has_signal: Tensor | None = None,
        has_clinical: Tensor | None = None,
        *,
        with_branches: bool = False,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor], Tensor]:
        """Map the modalities of B patients to logits (B, classes).

        Parameters
        ----------
        image : torch.Tensor, shape (B, 1, H, W), or None
            Ink from 0 to 1, or bytes (uint8).
        signal : torch.Tensor, shape (B, leads, T), or None
            Millivolts.
        clinical : torch.Tensor, shape (B, clinical_features), or None
            NaN where a value is missing.
        has_image, has_signal, has_clinical : torch.Tensor of bool, shape (B,), or None
            Which rows have the modality; None: all rows of a modality that is given, else none.
        with_branches : bool
            Return the logits, each branch's logits (B, classes), and the gates (B, modalities).

            A branch's logits are NaN in rows that lack its modality. Gates follow the order of
            ``modalities``; they sum to 1 and are 0 for absent ones. Late fusion weighs present modalities
            equally; concatenation has no weights, and equal ones are returned.

        Raises
        ------
        ValueError
            If a row has none of the network's modalities, or shapes do not fit. Modalities that the network
            does not read are ignored.
        """
        given = dict(zip(MODALITIES, (image, signal, clinical), strict=True))
        has = dict(zip(MODALITIES, (has_image, has_signal, has_clinical), strict=True))
        present = self._present(given, has)
        features = {name: self._encode(name, given[name], present[name]) for name in self.modalities}
        branch_logits = {
            name: self._branch_logits(name, features[name], present[name]) for name in self.modalities
        }
        masks = torch.stack([present[name] for name in self.modalities], dim=1)
        if self.fusion is None:
            logits = mean_of_present(torch.stack(list(branch_logits.values()), dim=1), masks)
            gates = equal_weights(masks)
        else:
            slots = [_fill(features[name], self.tokens[name], present[name]) for name in self.modalities]
            fused, gates = self.fusion(torch.stack(slots, dim=1), masks)
            logits = self.head(fused)
        return (logits, branch_logits, gates) if with_branches else logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Map logits (B, classes) to probabilities of this shape."""
        return logits.float().softmax(dim=1) if self.exclusive else logits.float().sigmoid()

    def _present(
        self, given: Mapping[str, Tensor | None], has: Mapping[str, Tensor | None]
    ) -> dict[str, Tensor]:
        """Return the checked mask (B,) of every modality; a row without any is refused."""
        batches = {name: values for name in self.modalities if (values := given[name]) is not None}
        if not batches:
            raise ValueError(
                f"Give {' or '.join(self.modalities)}: without any of them there is nothing to predict from."
            )
        rows = {name: len(values) for name, values in batches.items()}
        for name, values in batches.items():
            branch: Any = self.branches[name]
            branch.check(values)
        if len(set(rows.values())) > 1:
            raise ValueError(f"All modalities must have the same number of rows, and have {rows}.")
        batch = next(iter(batches.values()))
        present = {name: modality_mask(name, given[name], has[name], batch) for name in self.modalities}
        lacking = (~torch.stack(list(present.values())).any(dim=0)).nonzero().flatten().tolist()
        if lacking:
            raise ValueError(
                f"Rows {lacking[:5]} of the batch have none of {', '.join(self.modalities)}: leave them out, "
                "or correct the masks."
            )
        return present

    def _encode(self, name: str, values: Tensor | None, present: Tensor) -> Tensor:
        """Return the features (P, features) of the P rows that have a modality."""
        branch: Any = self.branches[name]
        return branch(branch.empty_batch() if values is None else values[present]).float()

    def _branch_logits(self, name: str, features: Tensor, present: Tensor) -> Tensor:
        """Return the logits (B, classes) of one branch, NaN where its modality is absent."""
        logits = self.branch_heads[name](features.detach() if self.probe_branches else features).float()
        return _fill(logits, logits.new_full((1, self.classes, 1), torch.nan), present)


def _classifier(features: int, dropout: float, classes: int) -> nn.Sequential:
    """Return the head of (B, features): one hidden layer, and the logits."""
    return nn.Sequential(
        nn.Linear(features, features), nn.ReLU(), nn.Dropout(dropout), nn.Linear(features, classes)
    )


def _fill(features: Tensor, token: Tensor, present: Tensor) -> Tensor:
    """Return (B, C): the features (P, C) in the P present rows, the token (1, C, 1) elsewhere."""
    return fill_rows(features.unsqueeze(-1), token, present).squeeze(-1)


def equal_weights(present: Tensor) -> Tensor:
    """Map which modalities are present (B, count) to weights that are equal among them and sum to 1."""
    return present / present.sum(dim=1, keepdim=True)


def mean_of_present(logits: Tensor, present: Tensor) -> Tensor:
    """Map logits (B, count, classes), anything where a modality is absent, to their mean (B, classes)."""
    known = torch.where(present.unsqueeze(-1), logits, 0.0)
    return known.sum(dim=1) / present.sum(dim=1, keepdim=True)


def _check_arguments(
    classes: int, modalities: Sequence[str], fusion: str, width: int, dropout: float, probe_branches: bool
) -> None:
    """Refuse options that make no network, saying which would."""
    if (
        isinstance(modalities, str)
        or not modalities
        or len(set(modalities) & set(MODALITIES)) < len(modalities)
    ):
        raise ValueError(f"modalities must be different ones among {MODALITIES}, and are {modalities!r}.")
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, and is {fusion!r}.")
    if classes < 1:
        raise ValueError(f"classes must be at least 1, and is {classes}.")
    if width < 8 or width % 8:
        raise ValueError(f"width must be a multiple of 8, and is {width}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be 0 or more and below 1, and is {dropout}.")
    if probe_branches and (fusion == "late" or len(modalities) == 1):
        raise ValueError(
            "probe_branches needs fusion gate or concatenation of several modalities: "
            "otherwise the branches' heads are the classifier."
        )
