"""Samples of task ``ecg-multimodal``: the patients of a cache with their views, as tensors on a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from datasets.cache import Cache
from datasets.patients import MODALITIES, SUPERCLASSES
from learning.samples import Samples


@dataclasses.dataclass(frozen=True)
class Patients(Samples):
    """Recordings of patients, on a device.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a recording; ``session`` is the patient, who is never on both sides of a split.
    views : mapping of str to torch.Tensor
        ``image`` (N, 1, H, W) bytes of ink, ``signal`` (N, leads, T) in millivolts, ``clinical``
        (N, features), NaN where a value is missing.
    has : mapping of str to torch.Tensor of bool, shape (N,)
        Which recordings have which view.
    clinical_names : tuple of str
        Columns of the clinical view.
    label : torch.Tensor of int, shape (N,) or (N, classes)
        0 or 1.
    weight : torch.Tensor, shape (N,)
        Weight in the loss.
    """

    views: Mapping[str, Tensor]
    has: Mapping[str, Tensor]
    clinical_names: tuple[str, ...]
    label: Tensor
    weight: Tensor

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the recordings of these rows: views, ``has_<view>``, label and weight."""
        here = rows.to(self.label.device)
        batch = {"label": self.label[here], "weight": self.weight[here]}
        for name, view in self.views.items():
            batch |= {name: view[here], f"has_{name}": self.has[name][here]}
        return batch

    def without(self, view: str) -> Patients:
        """Return the same patients without one view, as if it had not been recorded."""
        return dataclasses.replace(self, has={**self.has, view: torch.zeros_like(self.has[view])})

    def weighted(self, weight: Tensor) -> Patients:
        """Return the same patients with other weights in the loss."""
        return dataclasses.replace(self, weight=weight)

    def taken(self, rows: np.ndarray) -> Patients:
        """Return some of the patients."""
        here = torch.from_numpy(rows).to(self.label.device)
        changed: dict[str, Any] = {
            name: {view: value[here] for view, value in getattr(self, name).items()}
            for name in ("views", "has")
        }
        table = self.table.iloc[rows].reset_index(drop=True).assign(sample=np.arange(len(rows)))
        return dataclasses.replace(
            self, table=table, label=self.label[here], weight=self.weight[here], **changed
        )

    def describe_views(self) -> dict[str, Any]:
        """Return what a network must know of the views, in plain types."""
        return {
            "leads": self.views["signal"].shape[1],
            "image_size": list(self.views["image"].shape[2:]),
            "clinical": list(self.clinical_names),
        }

    def with_inputs(self, inputs: Mapping[str, Any]) -> Patients:
        """Return the patients with the clinical columns of ``inputs``; one not known here is missing.

        Raises
        ------
        UserError
            If leads or size of the image differ.
        """
        found = self.describe_views()
        for name in ("leads", "image_size"):
            if found[name] != list_or_number(inputs[name]):
                raise UserError(
                    f"The network was trained with {name.replace('_', ' ')} {inputs[name]}, and these data "
                    f"have {found[name]}: prepare them with the same options of load_data.py."
                )
        if found["clinical"] == list(inputs["clinical"]):
            return self
        missing = torch.full_like(self.label.reshape(len(self), -1)[:, 0].float(), torch.nan)
        known = dict(zip(self.clinical_names, self.views["clinical"].unbind(dim=1), strict=True))
        columns = [known.get(name, missing) for name in inputs["clinical"]]
        views = {**self.views, "clinical": torch.stack(columns, dim=1)}
        return dataclasses.replace(self, views=views, clinical_names=tuple(inputs["clinical"]))


def list_or_number(value: Any) -> Any:
    """Return a sequence as a list, anything else as it is."""
    return list(value) if isinstance(value, list | tuple) else value


def read_patients(cache: Cache, target: str, views: Sequence[str], device: torch.device) -> Patients:
    """Return the patients of a cache that have a label and one of some views.

    Parameters
    ----------
    cache : Cache
        Made by load_data.py ecg-multimodal.
    target : {"normal", "superclasses"}
    views : sequence of str
        Views that are read. A patient who has none of them is left out, with a warning; one without any
        clinical value is kept, is judged by the other views, and by what is missing if there are none.
    device : torch.device

    Raises
    ------
    UserError
        If the cache has no such labels.
    """
    table = cache.table("samples")
    columns = ["label"] if target == "normal" else list(SUPERCLASSES)
    if not set(columns) <= set(table):
        raise UserError(f"{cache.path} has no superclasses, which only PTB-XL names: use --target normal.")
    clinical = cache.table("clinical", missing=("",)).drop(columns="recording")
    label = torch.tensor(table[columns].to_numpy(np.int64)).squeeze(1).to(device)
    everyone = Patients(
        table=table,
        views={
            "image": torch.tensor(cache.array("images")).unsqueeze(1).to(device),
            "signal": torch.tensor(cache.array("signals")).to(device),
            "clinical": torch.tensor(clinical.to_numpy(np.float32)).to(device),
        },
        has={name: torch.tensor(table[f"has_{name}"].to_numpy(bool)).to(device) for name in MODALITIES},
        clinical_names=tuple(clinical),
        label=label,
        weight=torch.ones(len(table), device=device),
    )
    known = (table[columns] >= 0).all(axis=1) if target == "normal" else table[columns].any(axis=1)
    labelled = everyone.taken(np.flatnonzero(known))
    return with_some_view(labelled, views)


def with_some_view(patients: Patients, views: Sequence[str]) -> Patients:
    """Return the patients who have something that a network reads; say who has not."""
    others = [name for name in views if name != "clinical"]
    has = dict(patients.has)
    anything = torch.stack([torch.zeros_like(has["image"]), *(has[name] for name in others)]).any(dim=0)
    if "clinical" in views:
        unknown = (~has["clinical"] & ~anything).cpu().numpy()
        if unknown.any():
            print(f"Warning: {named(patients, unknown)} no clinical value: only that is known of them.")
        has["clinical"] = has["clinical"] | ~anything
        anything = anything | has["clinical"]
    lacking = (~anything).cpu().numpy()
    if lacking.any():
        print(f"Warning: {named(patients, lacking)} none of {', '.join(views)}: they are left out.")
    return dataclasses.replace(patients, has=has).taken(np.flatnonzero(~lacking))


def named(patients: Patients, rows: np.ndarray) -> str:
    """Return how many recordings some rows are, and which."""
    names = patients.table.loc[rows, "recording"].tolist()
    more = f" and {len(names) - 5} others" if len(names) > 5 else ""
    words = "recordings ({}) have" if len(names) > 1 else "recording ({}) has"
    return f"{len(names)} {words.format(', '.join(names[:5]) + more)}"
