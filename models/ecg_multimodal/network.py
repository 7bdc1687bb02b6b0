"""One verdict from an ECG picture, an ECG signal and a clinical table, or any of them.

A branch for each view ends in features of one length. They are fused by a gate for each patient, or by
concatenation, or each branch gives its own logits and the mean of those counts (late fusion).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.ecg_multimodal.clinical_branch import ClinicalBranch
from models.ecg_multimodal.image_branch import ImageBranch
from models.ecg_multimodal.signal_branch import SignalBranch
from models.layers.absence import place

VIEWS = ("image", "signal", "clinical")
FUSIONS = ("gate", "concatenation", "late")

Views = tuple[Tensor, dict[str, Tensor], Tensor]
"""Logits (B, classes), logits of each branch (B, classes), and gates (B, views)."""


class GateFusion(nn.Module):
    """Weigh the views of each patient by a softmax over those that are present.

    Parameters
    ----------
    views, features, hidden : int
        Number of views, length of their features, and length of the gate's hidden layer.
    """

    def __init__(self, views: int, features: int, hidden: int = 32) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(views * features + views, hidden), nn.ReLU(), nn.Linear(hidden, views)
        )

    def forward(self, slots: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, views, features) and (B, views) to the weighted sum (B, features) and gates (B, views)."""
        read = torch.cat([slots.flatten(1), present.to(slots.dtype)], dim=1)
        gates = self.gate(read).float().masked_fill(~present, -torch.inf).softmax(dim=1)
        return (gates.unsqueeze(-1) * slots).sum(dim=1), gates


class ConcatenationFusion(nn.Module):
    """Map all features side by side, and which are present, to features of one view's length.

    Parameters
    ----------
    views, features : int
        Number of views, and length of their features.
    """

    def __init__(self, views: int, features: int) -> None:
        super().__init__()
        self.merge = nn.Sequential(
            nn.Linear(views * features + views, features), nn.LayerNorm(features), nn.ReLU()
        )

    def forward(self, slots: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, views, features) and (B, views) to (B, features) and equal shares (B, views)."""
        read = torch.cat([slots.flatten(1), present.to(slots.dtype)], dim=1)
        return self.merge(read), equal_shares(present)


class MultimodalNetwork(nn.Module):
    """Branches, fusion and heads; takes any patient who has at least one of its views.

    Parameters
    ----------
    classes : int
        Number of logits, each its own yes or no: 1 for abnormal, 5 for the superclasses.
    leads : int
        Leads of the signal.
    clinical_features : int
        Columns of the clinical table.
    views : sequence of str
        Among ``image``, ``signal``, ``clinical``; one alone is its branch and its head.
    fusion : {"gate", "concatenation", "late"}
    width : int
        Channels after the stems of image and signal branch, a multiple of 8. Features of a view are
        4 * width: 64 for the small network of width 16, 256 for the published one of width 64.
    dropout : float
        Dropout of the branches' features and of the heads.
    image_size : tuple of int
        Height and width in pixels; (250, 2500) in the published network.
    kernel_size : int
        Kernel of the signal branch in points, odd.
    probe_branches : bool
        The branches' own heads read detached features: their loss then teaches the heads alone, which makes
        them measure what a branch knows without changing it. Not for late fusion, which is those heads.

    Notes
    -----
    Encoders see only the rows that have their view: what the input holds elsewhere reaches nothing, and
    batch normalization of image and signal branch counts present rows alone (one row is enough, for it
    averages over pixels or time too). Learned tokens stand in for the features of an absent view; with the
    gate they have weight 0 and only inform it. A view that the whole batch lacks runs its encoder on no
    rows, so its gradients are zero, not missing. Distributed training needs a gradient for every weight:
    train with ``with_views=True`` and a loss that contains the branches' logits, if need be times 0.
    """

    def __init__(
        self,
        classes: int = 1,
        leads: int = 12,
        clinical_features: int = 0,
        *,
        views: Sequence[str] = VIEWS,
        fusion: Literal["gate", "concatenation", "late"] = "gate",
        width: int = 16,
        dropout: float = 0.2,
        image_size: tuple[int, int] = (64, 640),
        kernel_size: int = 7,
        probe_branches: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(classes, views, fusion, width, dropout, probe_branches)
        self.views = tuple(name for name in VIEWS if name in views)
        self.classes, self.probe_branches = classes, probe_branches
        features, count = 4 * width, len(self.views)
        make: dict[str, Any] = {
            "image": lambda: ImageBranch(features, width, image_size, dropout),
            "signal": lambda: SignalBranch(features, leads, width, kernel_size, dropout),
            "clinical": lambda: ClinicalBranch(features, clinical_features, features, dropout),
        }
        self.branches = nn.ModuleDict({name: make[name]() for name in self.views})
        self.branch_heads = nn.ModuleDict(
            {name: classifier(features, dropout, classes) for name in self.views}
        )
        self.fusion: nn.Module | None = None
        if count > 1 and fusion != "late":
            fuse = GateFusion if fusion == "gate" else ConcatenationFusion
            self.fusion = fuse(count, features)
            self.head = classifier(features, dropout, classes)
            self.tokens = nn.ParameterDict(
                {name: nn.Parameter(torch.zeros(1, features, 1)) for name in self.views}
            )

    def fit(self, signal: Tensor | None = None, clinical: Tensor | None = None) -> None:
        """Fit the scalers of the branches there are, on training rows that have the view.

        Parameters
        ----------
        signal : torch.Tensor, shape (N, leads, T), optional
        clinical : torch.Tensor, shape (M, clinical_features), optional
            NaN where a value is missing.
        """
        for name, values in (("signal", signal), ("clinical", clinical)):
            if name not in self.views:
                continue
            if values is None:
                raise ValueError(f"This network reads the {name} view: give its training rows to fit.")
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
        with_views: bool = False,
    ) -> Tensor | Views:
        """Map the views of B patients to logits (B, classes).

        Parameters
        ----------
        image : torch.Tensor, shape (B, 1, H, W), or None
            Ink from 0 to 1, or bytes (uint8).
        signal : torch.Tensor, shape (B, leads, T), or None
            Millivolts.
        clinical : torch.Tensor, shape (B, clinical_features), or None
            NaN where a value is missing.
        has_image, has_signal, has_clinical : torch.Tensor of bool, shape (B,), or None
            Which rows have the view; None: all rows of a view that is given, else none.
        with_views : bool
            Return what `forward_with_views` does.

        Raises
        ------
        ValueError
            If a row has none of the network's views, or shapes do not fit. Views that the network does not
            read are left aside.
        """
        found = self.forward_with_views(image, signal, clinical, has_image, has_signal, has_clinical)
        return found if with_views else found[0]

    def forward_with_views(
        self,
        image: Tensor | None = None,
        signal: Tensor | None = None,
        clinical: Tensor | None = None,
        has_image: Tensor | None = None,
        has_signal: Tensor | None = None,
        has_clinical: Tensor | None = None,
    ) -> Views:
        """Return logits (B, classes), each branch's logits (B, classes), and the gates (B, views).

        A branch's logits are NaN in rows that lack its view. Gates follow the order of ``views``; they sum
        to 1 and are 0 for absent views. Late fusion weighs present views equally; concatenation has no
        weights, and equal ones are given.
        """
        given = dict(zip(VIEWS, (image, signal, clinical), strict=True))
        has = dict(zip(VIEWS, (has_image, has_signal, has_clinical), strict=True))
        present = self._present(given, has)
        found = {name: self._encode(name, given[name], present[name]) for name in self.views}
        branch_logits = {name: self._judge(name, found[name], present[name]) for name in self.views}
        there = torch.stack([present[name] for name in self.views], dim=1)
        if self.fusion is None:
            logits = mean_of_present(torch.stack(list(branch_logits.values()), dim=1), there)
            return logits, branch_logits, equal_shares(there)
        slots = [place_rows(found[name], self.tokens[name], present[name]) for name in self.views]
        fused, gates = self.fusion(torch.stack(slots, dim=1), there)
        return self.head(fused), branch_logits, gates

    def _present(
        self, given: Mapping[str, Tensor | None], has: Mapping[str, Tensor | None]
    ) -> dict[str, Tensor]:
        """Return the checked mask (B,) of every view; a row without any is refused."""
        known = {name: view for name in self.views if (view := given[name]) is not None}
        if not known:
            raise ValueError(
                f"Give {' or '.join(self.views)}: without any of them there is nothing to judge."
            )
        rows = {name: len(view) for name, view in known.items()}
        for name, view in known.items():
            branch: Any = self.branches[name]
            branch.check(view)
        if len(set(rows.values())) > 1:
            raise ValueError(f"All views must have the same number of rows, and have {rows}.")
        like = next(iter(known.values()))
        present = {name: _mask(name, given[name], has[name], like) for name in self.views}
        lacking = (~torch.stack(list(present.values())).any(dim=0)).nonzero().flatten().tolist()
        if lacking:
            raise ValueError(
                f"Rows {lacking[:5]} of the batch have none of {', '.join(self.views)}: leave them out, "
                "or correct the masks."
            )
        return present

    def _encode(self, name: str, view: Tensor | None, present: Tensor) -> Tensor:
        """Return the features (P, features) of the P rows that have a view."""
        branch: Any = self.branches[name]
        return branch(branch.nothing() if view is None else view[present]).float()

    def _judge(self, name: str, found: Tensor, present: Tensor) -> Tensor:
        """Return the logits (B, classes) of one branch, NaN where its view is absent."""
        logits = self.branch_heads[name](found.detach() if self.probe_branches else found).float()
        return place_rows(logits, logits.new_full((1, self.classes, 1), torch.nan), present)


def classifier(features: int, dropout: float, classes: int) -> nn.Sequential:
    """Return the head of (B, features): one hidden layer, and the logits."""
    return nn.Sequential(
        nn.Linear(features, features), nn.ReLU(), nn.Dropout(dropout), nn.Linear(features, classes)
    )


def place_rows(found: Tensor, token: Tensor, present: Tensor) -> Tensor:
    """Return (B, C): what was found (P, C) in the P present rows, the token (1, C, 1) elsewhere."""
    return place(found.unsqueeze(-1), token, present).squeeze(-1)


def equal_shares(present: Tensor) -> Tensor:
    """Map which views are present (B, views) to weights that are equal among them and sum to 1."""
    return present / present.sum(dim=1, keepdim=True)


def mean_of_present(logits: Tensor, present: Tensor) -> Tensor:
    """Map logits (B, views, classes), anything where a view is absent, to their mean (B, classes)."""
    known = torch.where(present.unsqueeze(-1), logits, 0.0)
    return known.sum(dim=1) / present.sum(dim=1, keepdim=True)


def _mask(name: str, view: Tensor | None, has: Tensor | None, like: Tensor) -> Tensor:
    """Return which rows have a view, as a checked boolean mask (B,)."""
    if has is None:
        return torch.full((len(like),), view is not None, device=like.device)
    if has.dtype != torch.bool or has.shape != (len(like),):
        raise ValueError(
            f"has_{name} must be boolean of shape ({len(like)},), and is {has.dtype} of {tuple(has.shape)}."
        )
    if view is None and bool(has.any()):
        raise ValueError(f"has_{name} says that rows have the {name} view, but {name} is not given.")
    return has


def _check_arguments(
    classes: int, views: Sequence[str], fusion: str, width: int, dropout: float, probe_branches: bool
) -> None:
    """Refuse options that make no network, saying which would."""
    if isinstance(views, str) or not views or set(views) - set(VIEWS) or len(set(views)) < len(views):
        raise ValueError(f"views must be different ones among {VIEWS}, and are {views!r}.")
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, and is {fusion!r}.")
    if classes < 1:
        raise ValueError(f"classes must be at least 1, and is {classes}.")
    if width < 8 or width % 8:
        raise ValueError(f"width must be a multiple of 8, and is {width}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be 0 or more and below 1, and is {dropout}.")
    if probe_branches and (fusion == "late" or len(views) == 1):
        raise ValueError(
            "probe_branches needs fusion gate or concatenation of several views: "
            "otherwise the branches' heads are the verdict."
        )
