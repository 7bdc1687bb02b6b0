"""Samples of task ``ecg-multimodal``: patients and their modalities, as tensors on a device."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import UserError
from datasets.cache import Cache
from datasets.patients import MODALITIES, SUPERCLASSES, SYNONYMS, TARGET, THREE_CLASSES, UNLABELLED
from learning.loop import Samples


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
        Which recordings have which modality.
    clinical_names : tuple of str
        Columns of the clinical table.
    label : torch.Tensor of int, shape (N,) or (N, classes)
        0 or 1.
    classes : tuple of str
        Names of the classes; none of normal and abnormal, of whom the label has one number.
    exclusive : bool
        Whether a recording is of one class alone.
    weight : torch.Tensor, shape (N,)
        Weight in the loss.
    signal_rate : float
        Hertz.
    """

    views: Mapping[str, Tensor]
    has: Mapping[str, Tensor]
    clinical_names: tuple[str, ...]
    label: Tensor
    weight: Tensor
    classes: tuple[str, ...] = ()
    exclusive: bool = False
    signal_rate: float = 100.0

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the recordings of these rows: modalities, ``has_<modality>``, label and weight."""
        here = rows.to(self.label.device)
        batch = {"label": self.label[here], "weight": self.weight[here]}
        for name, values in self.views.items():
            batch |= {name: values[here], f"has_{name}": self.has[name][here]}
        return batch

    def without(self, modality: str) -> Patients:
        """Return the same patients without one modality, as if it had not been recorded."""
        return dataclasses.replace(self, has={**self.has, modality: torch.zeros_like(self.has[modality])})

    def weighted(self, weight: Tensor) -> Patients:
        """Return the same patients with other weights in the loss."""
        return dataclasses.replace(self, weight=weight)

    def taken(self, rows: np.ndarray) -> Patients:
        """Return some of the patients."""
        here = torch.from_numpy(rows).to(self.label.device)
        changed: dict[str, Any] = {
            name: {modality: value[here] for modality, value in getattr(self, name).items()}
            for name in ("views", "has")
        }
        table = self.table.iloc[rows].reset_index(drop=True).assign(sample=np.arange(len(rows)))
        return dataclasses.replace(
            self, table=table, label=self.label[here], weight=self.weight[here], **changed
        )

    def describe_views(self) -> dict[str, Any]:
        """Return the sizes of the modalities, the clinical columns and the classes, in plain types."""
        return {
            "classes": list(self.classes),
            "exclusive": self.exclusive,
            "leads": self.views["signal"].shape[1],
            "image_size": list(self.views["image"].shape[2:]),
            "clinical": list(self.clinical_names),
        }

    def with_inputs(self, inputs: Mapping[str, Any]) -> Patients:
        """Return the patients with the columns and classes of ``inputs``; a value not known is missing.

        Raises
        ------
        UserError
            If leads or size of the image differ, or a class occurs that was not learned.
        """
        found = self.describe_views()
        for name in ("leads", "image_size"):
            if found[name] != _list_or_number(inputs[name]):
                raise UserError(
                    f"The network was trained with {name.replace('_', ' ')} {inputs[name]}, and these data "
                    f"have {found[name]}: prepare them with the same options of load_data.py."
                )
        patients = self._with_classes(inputs["classes"]) if inputs.get("classes") else self
        if found["clinical"] == list(inputs["clinical"]):
            return patients
        missing = torch.full_like(self.label.reshape(len(self), -1)[:, 0].float(), torch.nan)
        known = dict(zip(self.clinical_names, self.views["clinical"].unbind(dim=1), strict=True))
        columns = [known.get(name, missing) for name in inputs["clinical"]]
        views = {**self.views, "clinical": torch.stack(columns, dim=1)}
        return dataclasses.replace(patients, views=views, clinical_names=tuple(inputs["clinical"]))

    def _with_classes(self, classes: Sequence[str]) -> Patients:
        """Return the patients with these classes, in this order."""
        unknown = sorted(set(self.classes) - set(classes))
        if unknown:
            raise UserError(
                f"The network learned the classes {', '.join(classes)}, and these data have {unknown[0]} "
                "too: rename it, or train with these data."
            )
        none = torch.zeros_like(self.label[:, 0])
        columns = dict(zip(self.classes, self.label.unbind(dim=1), strict=True))
        label = torch.stack([columns.get(name, none) for name in classes], dim=1)
        return dataclasses.replace(self, label=label, classes=tuple(classes))


def _list_or_number(value: Any) -> Any:
    """Return a sequence as a list, anything else as it is."""
    return list(value) if isinstance(value, list | tuple) else value


def read_patients(cache: Cache, target: str, views: Sequence[str], device: torch.device) -> Patients:
    """Return the patients of a cache that have a label and one of some modalities.

    Parameters
    ----------
    cache : Cache
        Made by load_data.py ecg-multimodal.
    target : str
        ``normal``, ``superclasses``, or a column of classes (``target_<name>`` in ``samples.csv``).
    views : sequence of str
        Modalities that are read. A patient who has none of them is left out, with a warning. One without any
        clinical value is kept: the other modalities are read, or which values are missing if there are none.
    device : torch.device

    Raises
    ------
    UserError
        If the cache has no such labels.
    """
    table = cache.table("samples")
    found = _labels(cache, table, target)
    if found.exclusive:  # folds are then mixed by class
        table = table.assign(label=np.where(found.known, found.values.argmax(axis=1), UNLABELLED))
    clinical = cache.table("clinical", missing=("",)).drop(columns="recording")
    told = [name for name in clinical if name in _names_of(target)]
    if told:
        print(f"Warning: {told[0]} is the target and a clinical value too: as the latter it is not read.")
        clinical = clinical.drop(columns=told)
    everyone = Patients(
        table=table,
        views={
            "image": torch.tensor(cache.array("images")).unsqueeze(1).to(device),
            "signal": torch.tensor(cache.array("signals")).to(device),
            "clinical": torch.tensor(clinical.to_numpy(np.float32)).to(device),
        },
        has={name: torch.tensor(table[f"has_{name}"].to_numpy(bool)).to(device) for name in MODALITIES},
        clinical_names=tuple(clinical),
        label=torch.tensor(found.values).to(device),
        weight=torch.ones(len(table), device=device),
        classes=found.classes,
        exclusive=found.exclusive,
        signal_rate=float(cache.manifest["settings"]["signal_rate"]),
    )
    return _with_some_modality(everyone.taken(np.flatnonzero(found.known)), views)


def _folded(target: str) -> str:
    """Return a target as columns of the index name it."""
    return re.sub(r"\W+", "_", target.casefold()).strip("_")


def _names_of(target: str) -> set[str]:
    """Return the names that a clinical value has which is the target itself."""
    name = _folded(target)
    return {name} | {usual for usual, synonyms in SYNONYMS.items() if name in synonyms}


class _Labels(NamedTuple):
    """Labels of recordings: 0 or 1, shape (N,) or (N, classes), and which are known, shape (N,)."""

    values: NDArray[np.int64]
    known: NDArray[np.bool_]
    classes: tuple[str, ...] = ()
    exclusive: bool = False


def _labels(cache: Cache, table: pd.DataFrame, target: str) -> _Labels:
    """Return what is to be learned of each recording."""
    if target == "normal":
        label = table["label"].to_numpy(np.int64)
        return _Labels(label, label >= 0)
    if target == "superclasses":
        if not set(SUPERCLASSES) <= set(table):
            raise UserError(
                f"{cache.path} has no superclasses, which only PTB-XL names: use --target normal."
            )
        values = table[list(SUPERCLASSES)].to_numpy(np.int64)
        return _Labels(values, values.sum(axis=1) > 0, SUPERCLASSES)
    column = TARGET + _folded(target)
    if column not in table:
        there = [name.removeprefix(TARGET) for name in table if name.startswith(TARGET)]
        raise UserError(
            f"{cache.path} has no target {target}; it has {', '.join(['normal', *there])}. A column of the "
            "table of labels is one if it has two to twenty classes, and three-classes needs load_data.py "
            "with --unlabelled keep."
        )
    named = [set(filter(None, str(cell).split("+"))) for cell in table[column]]
    present = set[str]().union(*named)
    known_order = [name for name in THREE_CLASSES if name in present]
    classes = known_order if len(known_order) == len(present) else sorted(present)
    if len(classes) < 2 or set(classes) & set(table):
        what = "fewer than two classes" if len(classes) < 2 else "a class named like a column of samples.csv"
        raise UserError(f"The target {target} of {cache.path} has {what}: choose another, or rename it.")
    values = np.array([[name in cell for name in classes] for cell in named], dtype=np.int64)
    count = values.sum(axis=1)
    return _Labels(values, count > 0, tuple(classes), bool(count.max() == 1))


def _with_some_modality(patients: Patients, views: Sequence[str]) -> Patients:
    """Return the patients who have something that a network reads; print who has not."""
    others = [name for name in views if name != "clinical"]
    has = dict(patients.has)
    anything = torch.stack([torch.zeros_like(has["image"]), *(has[name] for name in others)]).any(dim=0)
    if "clinical" in views:
        unknown = (~has["clinical"] & ~anything).cpu().numpy()
        if unknown.any():
            print(f"Warning: {_named(patients, unknown)} no clinical value: only that is known of them.")
        has["clinical"] = has["clinical"] | ~anything
        anything = anything | has["clinical"]
    lacking = (~anything).cpu().numpy()
    if lacking.any():
        print(f"Warning: {_named(patients, lacking)} none of {', '.join(views)}: they are left out.")
    return dataclasses.replace(patients, has=has).taken(np.flatnonzero(~lacking))


def _named(patients: Patients, rows: np.ndarray) -> str:
    """Return how many recordings some rows are, and which."""
    names = patients.table.loc[rows, "recording"].tolist()
    more = f" and {len(names) - 5} others" if len(names) > 5 else ""
    noun = "recordings ({}) have" if len(names) > 1 else "recording ({}) has"
    return f"{len(names)} {noun.format(', '.join(names[:5]) + more)}"
