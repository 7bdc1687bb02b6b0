"""Kinds of PACFNet as ONNX, run by onnxruntime, say what they say when they are evaluated."""

from typing import Any

import pytest

import systems.base.exporting as export
from models.pacfnet import PACFNet
from systems.base.exporting import TOLERANCE, open_exported, write_export
from tests.exported_checkpoint import compare, exported, stir

BOTH = ("ecg", "pcg")
MASKED = (*BOTH, "has_ecg", "has_pcg")
# tests/test_export.py has the default, cascaded, at all its levels
KINDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "parallel": ({"attention": "parallel"}, BOTH),
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
