"""Kinds of PACFNet as ONNX, run by onnxruntime, say what they say when they are evaluated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import systems.base.exporting as export
from models.pacfnet import PACFNet
from systems.base.exporting import TOLERANCE, Exportable, open_exported, write_export
from systems.ecg_pcg.export import OUTPUTS, ExportedBeats, random_beats
from tests.exported_checkpoint import compare, exported, stir

BOTH = ("ecg", "pcg")
MASKED = (*BOTH, "has_ecg", "has_pcg")
KINDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "subsets": ({"absence_tokens": True}, MASKED),
    "ecg-network": ({"modalities": ("ecg",)}, ("ecg",)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_says_what_the_network_says(kind, tmp_path):
    for package in export.ONNX_PACKAGES:
        pytest.importorskip(package, reason="ONNX needs it (requirements-cpu.txt)")
    options, names = KINDS[kind]
    made = exported(stir(PACFNet(width=8, levels=2, **options)), names)
    assert write_export(made, tmp_path / "a.onnx", "onnx") <= TOLERANCE
    compare(made, open_exported(tmp_path / "a.onnx"))


@pytest.mark.parametrize("attention", ["cascaded", "parallel"])
def test_onnxruntime_says_what_the_original_network_says(attention, tmp_path):
    """The reference of tests/models/test_pacfnet.py."""
    for package in export.ONNX_PACKAGES:
        pytest.importorskip(package, reason="ONNX needs it (requirements-cpu.txt)")
    with np.load(Path(__file__).parents[2] / "models" / "pacfnet-w8.npz") as stored:
        known = {name: torch.from_numpy(stored[name]) for name in stored}
    network = PACFNet(width=8, attention=attention)
    network.load_state_dict({name[6:]: value for name, value in known.items() if name.startswith("state.")})
    made = Exportable(
        ExportedBeats(network).eval(),
        lambda rows, generator: random_beats(BOTH, rows, known["ecg"].shape[-1], generator),
        OUTPUTS,
        {},
    )
    write_export(made, tmp_path / "a.onnx", "onnx")
    found = open_exported(tmp_path / "a.onnx")({name: known[name] for name in BOTH})
    expected = known[f"{attention}.probability"][:, 1]
    np.testing.assert_allclose(found["probability"], expected, atol=1e-5)
