"""Every network of beats, exported, says what it says when it is judged."""

from typing import Any

import pytest
import torch

import learning.export as export
from learning.export import TOLERANCE, Exportable, open_exported, write_export
from models import NETWORKS, SINGLE_MODALITY, TAKES_ABSENCE
from models.pacfnet import PACFNet
from tasks.ecg_pcg_export import OUTPUTS, ExportedBeats, exportable, random_beats
from tests.exported_checkpoint import POINTS, checkpoint, stir

SUBSETS = {"modality_dropout": 0.5}
BOTH = ("ecg", "pcg")
MASKED = (*BOTH, "has_ecg", "has_pcg")
KINDS: dict[
    str, tuple[dict[str, Any], tuple[str, ...]]
] = {  # tests/test_export.py has the default, cascaded, at all its levels
    "parallel": ({"attention": "parallel"}, BOTH),
    "subsets": ({"absence_tokens": True}, MASKED),
    "ecg-network": ({"modalities": ("ecg",)}, ("ecg",)),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_says_what_the_network_says(kind, tmp_path):
    for package in export.ONNX_PACKAGES:
        pytest.importorskip(package, reason="ONNX needs it (requirements-dev.txt)")
    options, names = KINDS[kind]
    made = exported(stir(PACFNet(width=8, levels=2, **options)), names)
    assert write_export(made, tmp_path / "a.onnx", "onnx") <= TOLERANCE
    compare(made, open_exported(tmp_path / "a.onnx"))


def exported(network: torch.nn.Module, names: tuple[str, ...]) -> Exportable:
    def draw(rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return random_beats(names, rows, POINTS, generator)

    return Exportable(ExportedBeats(network).eval(), draw, OUTPUTS, {"outputs": ", ".join(OUTPUTS)})


SMALLER = {"last-fusion": {}, "early-fusion": {}, "late-fusion": {}, "cross-attention": {"layers": 2}}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_one_graph(name):
    """Those that take any subset of the signals with tokens, which are harder, the others without."""
    tokens = {"absence_tokens": True} if name in TAKES_ABSENCE else {}
    network = stir(NETWORKS[name](width=8, **SMALLER.get(name, {"levels": 2}), **tokens))
    alone = SINGLE_MODALITY.get(name)
    made = exported(network, MASKED if tokens else (alone,) if alone else BOTH)
    program = export._traced(made).module()
    compare(made, lambda batch: dict(zip(OUTPUTS, program(**batch), strict=True)))


def test_one_signal_alone_is_one_graph():
    """As a network that was trained with the other one zeroed is exported."""
    made = exported(stir(PACFNet(width=8, levels=2, absence_tokens=True)), ("pcg",))
    program = export._traced(made).module()
    compare(made, lambda batch: dict(zip(OUTPUTS, program(**batch), strict=True)))


def compare(made: Exportable, run: export.Run) -> None:
    """Ask the network itself, and the file, about batches of 1 and of 5."""
    network, draw = made.network.get_submodule("network"), made.draw
    for rows in (1, 5):
        inputs = draw(rows, torch.Generator().manual_seed(rows))
        with torch.no_grad():
            logits = network(**inputs)
        found = run(inputs)
        assert found["logits"].shape == (rows, 2)
        assert (found["logits"] - logits).abs().max() <= TOLERANCE
        assert (found["probability"] - logits.softmax(dim=1)[:, 1]).abs().max() <= TOLERANCE
    spread = logits.std(dim=0).max()
    assert spread > 100 * TOLERANCE, "the answers must depend on the input for this to be a test"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, BOTH),
        ({"model": "early-fusion"}, BOTH),
        ({"model": "ecg-network"}, ("ecg",)),
        ({"model": "pcg-network"}, ("pcg",)),
        ({"zeroed": "pcg"}, ("ecg",)),
        ({"zeroed": "ecg"}, ("pcg",)),
        (SUBSETS, MASKED),
    ],
)
def test_a_file_takes_what_its_network_reads(options, names):
    assert tuple(exportable(checkpoint(**options), "").draw(3, torch.Generator())) == names


def test_an_absent_signal_may_hold_anything_and_a_row_without_any_says_nothing(tmp_path):
    made = exported(stir(PACFNet(width=8, levels=2, absence_tokens=True)), MASKED)
    write_export(made, tmp_path / "a.pt2", "torch")
    run = open_exported(tmp_path / "a.pt2")
    inputs = random_beats(("ecg", "pcg"), 3, POINTS, torch.Generator().manual_seed(1))
    has = {"has_ecg": torch.tensor([True, False, False]), "has_pcg": torch.tensor([True, True, False])}
    said = run(inputs | has)["probability"]
    spoiled = inputs | {"ecg": inputs["ecg"].clone()}
    spoiled["ecg"][1:] = torch.nan
    again = run(spoiled | has)["probability"]
    assert torch.equal(said[:2], again[:2]) and said.isnan().tolist() == [False, False, True]
    everything = run(inputs | dict.fromkeys(has, torch.ones(3, dtype=torch.bool)))["probability"]
    assert (said[1] - everything[1]).abs() > TOLERANCE, "the mask must matter"
