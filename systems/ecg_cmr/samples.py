"""Samples of the ECG-CMR tasks: patients with an ECG, a cine, or both, as tensors on a device."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.errors import UserError
from datasets.cache import Cache
from learning.samples import Samples

TARGETS = ("indicators", "diseases", "covariates")


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
        ``indicators`` in their units, ``diseases`` 0 or 1, ``covariates``; NaN where not known.
    names : mapping of str to tuple of str
        Columns of the targets.
    ecg_rate : float
        Hertz.
    """

    ecg: Tensor
    lead_present: Tensor
    cmr: Tensor
    has: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    names: Mapping[str, tuple[str, ...]]
    ecg_rate: float

    @functools.cached_property
    def patient(self) -> Tensor:
        """Number of each recording's patient, shape (N,)."""
        return torch.from_numpy(pd.factorize(self.table["session"])[0]).to(self.ecg.device)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the recordings of these rows: ecg, lead_present, cmr, has_ecg, has_cmr, row, targets."""
        here = rows.to(self.ecg.device)
        batch = {name: getattr(self, name)[here] for name in ("ecg", "lead_present", "cmr")}
        batch["cmr"] = batch["cmr"].float() / (255 if self.cmr.dtype == torch.uint8 else 1)
        batch |= {f"has_{name}": mask[here] for name, mask in self.has.items()}
        batch |= {name: values[here] for name, values in self.targets.items()}
        return batch | {"row": here, "patient": self.patient[here]}

    def taken(self, rows: np.ndarray) -> Pairs:
        """Return some of the patients."""
        here = torch.from_numpy(rows).to(self.ecg.device)
        views = {name: getattr(self, name) for name in ("ecg", "lead_present", "cmr")}
        changed: dict[str, Any] = {
            name: view[here] if view.stride(0) else view[: len(rows)] for name, view in views.items()
        }
        for name in ("has", "targets"):
            changed[name] = {key: value[here] for key, value in getattr(self, name).items()}
        table = self.table.iloc[rows].reset_index(drop=True).assign(sample=np.arange(len(rows)))
        return dataclasses.replace(self, table=table, **changed)

    def describe_inputs(self) -> dict[str, Any]:
        """Return what a network must know of its inputs, in plain types."""
        return {
            "leads": self.ecg.shape[1],
            "samples": self.ecg.shape[2],
            "ecg_rate": self.ecg_rate,
            "frames": self.cmr.shape[1],
            "size": self.cmr.shape[2],
            **{name: list(self.names[name]) for name in TARGETS},
        }

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
        missing = torch.full_like(self.ecg[:, 0, 0], torch.nan)
        targets = {}
        for kind in TARGETS:
            known = dict(zip(self.names[kind], self.targets[kind].unbind(dim=1), strict=True))
            columns = [known.get(name, missing) for name in inputs[kind]]
            targets[kind] = torch.stack(columns, dim=1) if columns else self.targets[kind][:, :0]
        return dataclasses.replace(
            self, targets=targets, names={kind: tuple(inputs[kind]) for kind in TARGETS}
        )


def _view(cache: Cache, name: str, needed: bool, device: torch.device) -> Tensor:
    """Return an array of a cache; where it is not needed, zeros of its shape that take no memory."""
    array = cache.array(name)
    if needed:
        return torch.tensor(array).to(device)
    nothing = torch.from_numpy(np.zeros((1,) * array.ndim, dtype=array.dtype))
    return nothing.to(device).expand(array.shape)


def read_pairs(cache: Cache, needs: tuple[str, ...], device: torch.device) -> Pairs:
    """Return the patients of a cache that have all of what is needed.

    Parameters
    ----------
    cache : Cache
        Made by load_data.py for an ECG-CMR task.
    needs : tuple of str
        Among ``ecg`` and ``cmr``.
    device : torch.device

    Raises
    ------
    UserError
        If no patient has it.
    """
    table, known = cache.table("samples"), cache.table("targets", missing=("",))
    names = {kind: tuple(cache.manifest["targets"][kind]) for kind in TARGETS}
    everyone = Pairs(
        table=table,
        ecg=_view(cache, "ecg", "ecg" in needs, device),
        lead_present=torch.tensor(cache.array("lead_present")).bool().to(device),
        cmr=_view(cache, "cmr", "cmr" in needs, device),
        has={name: torch.tensor(table[f"has_{name}"].to_numpy(bool)).to(device) for name in ("ecg", "cmr")},
        targets={
            kind: torch.tensor(known[list(columns)].to_numpy(np.float32)).to(device)
            for kind, columns in names.items()
        },
        names=names,
        ecg_rate=float(cache.manifest["settings"]["ecg_rate"]),
    )
    usable = torch.stack([everyone.has[name] for name in needs]).all(dim=0).cpu().numpy()
    if not usable.any():
        words = " and ".join({"ecg": "an ECG", "cmr": "a cine"}[name] for name in needs)
        raise UserError(f"No patient of {cache.path} has {words}, which this task needs.")
    return everyone if usable.all() else everyone.taken(np.flatnonzero(usable))
