"""Samples of the ECG-CMR tasks: patients with an ECG, a cine, or both, as tensors on a device."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.errors import UserError
from common.options import nearest
from datasets.cache import Cache
from learning.loop import Samples
from systems.ecg_cmr.indicators import KNOWN
from systems.ecg_cmr.settings import COVARIATES, KNOWN_TARGETS, NO_COLUMN
from systems.ecg_cmr.sources.pairs import MILLIVOLTS

_TARGETS = ("indicators", "diseases", "covariates")
CLASSES, _OTHERS = "classes", "others"


@dataclasses.dataclass(frozen=True)
class Pairs(Samples):
    """Patients, on a device.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a recording; ``session`` is the patient.
    ecg : torch.Tensor, shape (N, leads, T)
        Millivolts; zeros where a patient has none, and for all where the task needs none.
    lead_present : torch.Tensor of bool, shape (N, leads)
    cmr : torch.Tensor, shape (N, frames, H, W)
        0 to 1, or bytes; zeros where a patient has none, and for all where the task needs none.
    has : mapping of str to torch.Tensor of bool, shape (N,)
        Which patients have the ``ecg`` and the ``cmr``.
    targets : mapping of str to torch.Tensor, shape (N, columns)
        ``indicators`` in their units, ``diseases`` 0 or 1, ``covariates``, ``classes`` by number, and
        ``others``, which nothing reads before `choose_columns`; NaN where not known.
    names : mapping of str to tuple of str
        Columns of the targets.
    ecg_rate : float
        Hertz.
    labels : mapping of str to tuple of str
        By column of classes, what each number means.
    long_axis : torch.Tensor, shape (N, frames, H, W), or None
        As ``cmr``, where a task reads both axes; ``has`` then has ``long_axis`` too.
    ecg_unit : str
        mV or z-score.
    """

    ecg: Tensor
    lead_present: Tensor
    cmr: Tensor
    has: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    names: Mapping[str, tuple[str, ...]]
    ecg_rate: float
    labels: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    long_axis: Tensor | None = None
    ecg_unit: str = MILLIVOLTS

    @functools.cached_property
    def patient(self) -> Tensor:
        """Number of each recording's patient, shape (N,)."""
        return torch.from_numpy(pd.factorize(self.table["session"])[0]).to(self.ecg.device)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the recordings of these rows: signals, what there is of them, row, patient, targets."""
        here = rows.to(self.ecg.device)
        batch = {"ecg": self.ecg[here], "lead_present": self.lead_present[here]}
        batch |= {name: _brightness(cines[here]) for name, cines in self.cines().items()}
        batch |= {f"has_{name}": mask[here] for name, mask in self.has.items()}
        batch |= {name: values[here] for name, values in self.targets.items()}
        return batch | {"row": here, "patient": self.patient[here]}

    def cines(self) -> dict[str, Tensor]:
        """Return the cines by name: ``cmr``, and ``long_axis`` where both axes are read."""
        return {"cmr": self.cmr} | ({} if self.long_axis is None else {"long_axis": self.long_axis})

    def taken(self, rows: np.ndarray) -> Pairs:
        """Return some of the patients."""
        here = torch.from_numpy(rows).to(self.ecg.device)
        arrays = {"ecg": self.ecg, "lead_present": self.lead_present, **self.cines()}
        changed: dict[str, Any] = {
            name: array[here] if array.stride(0) else array[: len(rows)] for name, array in arrays.items()
        }
        for name in ("has", "targets"):
            changed[name] = {key: value[here] for key, value in getattr(self, name).items()}
        table = self.table.iloc[rows].reset_index(drop=True).assign(sample=np.arange(len(rows)))
        return dataclasses.replace(self, table=table, **changed)

    def describe_inputs(self) -> dict[str, Any]:
        """Return the shape and the columns of the inputs, in plain types."""
        labels = {name: list(each) for name, each in self.labels.items()}
        return {
            "leads": self.ecg.shape[1],
            "samples": self.ecg.shape[2],
            "ecg_rate": self.ecg_rate,
            "frames": self.cmr.shape[1],
            "size": self.cmr.shape[2],
            **{name: list(self.names[name]) for name in _TARGETS},
            **({CLASSES: labels} if labels else {}),
            **({"ecg_unit": self.ecg_unit} if self.ecg_unit != MILLIVOLTS else {}),
        }

    def columns(self) -> dict[str, Tensor]:
        """Return every column of the targets by name, shape (N,)."""
        return {
            name: column
            for group, names in self.names.items()
            for name, column in zip(names, self.targets[group].unbind(dim=1), strict=True)
        }

    def arranged(
        self, names: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str]] | None = None
    ) -> Pairs:
        """Return the patients with these columns in these groups; one not known here is missing.

        Parameters
        ----------
        names : mapping of str to sequence of str
            Columns of each group.
        labels : mapping of str to sequence of str, optional
            By column of classes, what the numbers are to mean; a class that is not among them is not known.
        """
        known = self.columns()
        meant = {name: tuple(each) for name, each in (labels or {}).items()}
        missing = torch.full_like(self.ecg[:, 0, 0], torch.nan)
        targets = {}
        for group, wanted in names.items():
            columns = [known.get(name, missing) for name in wanted]
            if group == CLASSES:
                columns = [
                    _renumbered(column, self.labels.get(name, ()), meant[name])
                    for name, column in zip(wanted, columns, strict=True)
                ]
            targets[group] = torch.stack(columns, dim=1) if columns else missing[:, None][:, :0]
        return dataclasses.replace(
            self, targets=targets, names={group: tuple(each) for group, each in names.items()}, labels=meant
        )

    def with_inputs(self, inputs: Mapping[str, Any]) -> Pairs:
        """Return the patients with the target columns of ``inputs``; one not known here is missing.

        Raises
        ------
        UserError
            If the shape of ECG or cine differs.
        """
        found = self.describe_inputs()
        for name in ("leads", "samples", "frames", "size"):
            if found[name] != inputs[name]:
                raise UserError(
                    f"The network was trained with {inputs[name]} {name}, and these data have {found[name]}: "
                    "prepare them with the same options of load_data.py."
                )
        unit = inputs.get("ecg_unit", MILLIVOLTS)
        if unit != self.ecg_unit:
            raise UserError(f"The network was trained with ECGs in {unit}, and these are in {self.ecg_unit}.")
        labels = inputs.get(CLASSES, {})
        for name, learned in labels.items():
            unknown = [label for label in self.labels.get(name, ()) if label not in learned]
            if unknown:
                print(
                    f"Warning: of {name} the network learned {', '.join(learned)}, and these data have "
                    f"{', '.join(unknown)} too: there the class counts as not known, and is not scored."
                )
        return self.arranged({group: inputs[group] for group in _TARGETS} | {CLASSES: labels}, labels)


def _renumbered(column: Tensor, now: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Return numbers of classes (N,) in another order of the classes; NaN for one that is not among them."""
    found = torch.full_like(column, torch.nan)
    for number, label in enumerate(now):
        if label in wanted:
            found[column == number] = wanted.index(label)
    return found


def _brightness(cines: Tensor) -> Tensor:
    """Return cines, bytes or 0 to 1, as brightness from 0 to 1."""
    return cines.float() / (255 if cines.dtype == torch.uint8 else 1)


def spacing_of(prepared: Mapping[str, Any], axis: str) -> float:
    """Return millimetres a pixel of the cines of an axis, from the settings that a cache was made with."""
    return float(prepared["long_axis_spacing" if axis == "long" else "pixel_spacing"])


def _tensor(cache: Cache, name: str, needed: bool, device: torch.device) -> Tensor:
    """Return an array of a cache; where it is not needed, zeros of its shape that take no memory."""
    array = cache.array(name)
    if needed:
        return torch.tensor(array).to(device)
    nothing = torch.from_numpy(np.zeros((1,) * array.ndim, dtype=array.dtype))
    return nothing.to(device).expand(array.shape)


def read_pairs(
    cache: Cache,
    needs: tuple[str, ...],
    device: torch.device,
    axis: Literal["short", "long", "both"] = "short",
) -> Pairs:
    """Return the patients of a cache that have all of what is needed.

    Parameters
    ----------
    cache : Cache
        Made by load_data.py for an ECG-CMR task.
    needs : tuple of str
        Among ``ecg`` and ``cmr``.
    device : torch.device
    axis : {"short", "long", "both"}
        Axis of ``cmr``; both: the short one, and the long one as ``long_axis``, which some may lack.

    Raises
    ------
    UserError
        If no patient has it.
    """
    if axis != "short" and not cache.manifest["settings"].get("long_axis"):
        raise UserError(
            f"{cache.path} was prepared without the long axis, which --axis {axis} reads: prepare it again "
            "with load_data.py and --long-axis."
        )
    table, known = cache.table("samples"), cache.table("targets", missing=("",))
    stated = cache.manifest["targets"]
    labels = {name: tuple(each) for name, each in stated.get(CLASSES, {}).items()}
    names = {group: tuple(stated[group]) for group in _TARGETS} | {CLASSES: tuple(labels)}
    names["indicators"] = tuple(name for name in stated["indicators"] if name in KNOWN)
    names[_OTHERS] = tuple(
        name for name in (*stated["indicators"], *stated.get(_OTHERS, ())) if name not in names["indicators"]
    )
    cines = {"cmr": "long_axis" if axis == "long" else "cmr"}
    cines |= {"long_axis": "long_axis"} if axis == "both" else {}
    everyone = Pairs(
        table=table,
        ecg=_tensor(cache, "ecg", "ecg" in needs, device),
        lead_present=torch.tensor(cache.array("lead_present")).bool().to(device),
        cmr=_tensor(cache, cines["cmr"], "cmr" in needs, device),
        long_axis=_tensor(cache, "long_axis", True, device) if "long_axis" in cines else None,
        has={
            name: torch.tensor(table[f"has_{column}"].to_numpy(bool)).to(device)
            for name, column in ({"ecg": "ecg"} | cines).items()
        },
        targets={
            group: torch.tensor(known[list(columns)].to_numpy(np.float32)).to(device)
            for group, columns in names.items()
        },
        names=names,
        ecg_rate=float(cache.manifest["settings"]["ecg_rate"]),
        labels=labels,
        ecg_unit=cache.manifest.get("ecg_unit", MILLIVOLTS),
    )
    usable = torch.stack([everyone.has[name] for name in needs]).all(dim=0).cpu().numpy()
    if not usable.any():
        cine = "a long axis" if axis == "long" else "a cine"
        needed = " and ".join({"ecg": "an ECG", "cmr": cine}[name] for name in needs)
        raise UserError(f"No patient of {cache.path} has {needed}, which this task needs.")
    found = everyone if usable.all() else everyone.taken(np.flatnonzero(usable))
    if axis == "both" and not found.has["long_axis"].any():
        raise UserError(f"No patient of {cache.path} has a long axis: leave --axis both away.")
    return found


# Columns that are chosen ----------------------------------------------------------------------------


def choose_columns(samples: Pairs, covariates: Sequence[str], targets: Sequence[str]) -> Pairs:
    """Return the patients with the columns that are inputs and those that are learned, and no others.

    Parameters
    ----------
    samples : Pairs
    covariates : sequence of str
        Columns that are inputs; a usual one that the data lack is left away, any other is missing throughout.
    targets : sequence of str
        Columns to learn; ``known`` stands for all indicators that are known by name, diseases and classes.

    Raises
    ------
    UserError
        If a column is named as both.
    """
    named = [name for name in targets if name not in (KNOWN_TARGETS, NO_COLUMN)]
    given = [name for name in dict.fromkeys(covariates) if name != NO_COLUMN]
    both = sorted(set(named) & set(given))
    if both:
        raise UserError(f"{both[0]} is named by --covariates and by --targets: it can be one of them.")
    if tuple(given) == COVARIATES:
        given = [name for name in given if name in samples.names["covariates"]]
    learned = [
        *(
            name
            for group in ("indicators", "diseases", CLASSES)
            if KNOWN_TARGETS in targets
            for name in samples.names.get(group, ())
        ),
        *named,
    ]
    learned = [name for name in dict.fromkeys(learned) if name not in given]
    group_of = {name: group for group in ("diseases", CLASSES) for name in samples.names.get(group, ())}
    names = {
        group: [name for name in learned if group_of.get(name, "indicators") == group]
        for group in ("indicators", "diseases", CLASSES)
    }
    labels = {name: samples.labels[name] for name in names[CLASSES]}
    return samples.arranged(names | {"covariates": given}, labels)


def check_columns(samples: Pairs, everything: Pairs) -> str:
    """Return which columns of a cache are neither learned nor given to a model; empty if there are none.

    Parameters
    ----------
    samples, everything : Pairs
        With the columns that are chosen, and with all that there are.

    Raises
    ------
    UserError
        If a chosen column is not there, or has no value.
    """
    there, chosen = everything.columns(), samples.columns()
    for name in chosen:
        if name not in there:
            raise UserError(
                f"These data have no column {name!r}.{nearest(name, there)} Columns: {', '.join(there)}."
            )
    left = [name for name in there if name not in chosen]
    return (
        f"Columns that are neither learned nor an input: {', '.join(left)}. --covariates makes them inputs, "
        "--targets targets."
        if left
        else ""
    )


def require_values(table: Tensor, names: Sequence[str], what: str) -> None:
    """Refuse columns (patients, columns) without any value in the training part, and name them."""
    empty = [
        name for name, known in zip(names, table.isfinite().any(dim=0).tolist(), strict=True) if not known
    ]
    if empty:
        raise UserError(
            f"{what} without a value in the training part: {', '.join(empty)}. Leave them out with "
            "--covariates and --targets, or train on patients who have them."
        )
