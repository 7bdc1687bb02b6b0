"""Every network of beats, exported, says what it says when it is evaluated."""

import pytest
import torch

import systems.base.exporting as export
from models import NETWORKS, SINGLE_MODALITY, TAKES_ABSENCE
from models.pacfnet import PACFNet
from systems.base.exporting import TOLERANCE, open_exported, write_export
from systems.ecg_pcg.export import OUTPUTS, exportable, random_beats
from tests.exported_checkpoint import POINTS, WITHOUT_LEVELS, checkpoint, compare, exported, stir

SUBSETS = {"modality_dropout": 0.5}
BOTH = ("ecg", "pcg")
MASKED = (*BOTH, "has_ecg", "has_pcg")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_one_graph(name):
    """Those that take any subset of the signals with tokens, which are harder, the others without."""
    tokens = {"absence_tokens": True} if name in TAKES_ABSENCE else {}
    fewer = {"layers": 2} if name == "cross-attention" else {} if name in WITHOUT_LEVELS else {"levels": 2}
    network = stir(NETWORKS[name](width=8, **fewer, **tokens))
    alone = SINGLE_MODALITY.get(name)
    made = exported(network, MASKED if tokens else (alone,) if alone else BOTH)
    program = export._traced(made).module()
    compare(made, lambda batch: dict(zip(OUTPUTS, program(**batch), strict=True)))


def test_one_signal_alone_is_one_graph():
    """As a network that was trained with the other one zeroed is exported."""
    made = exported(stir(PACFNet(width=8, levels=2, absence_tokens=True)), ("pcg",))
    program = export._traced(made).module()
    compare(made, lambda batch: dict(zip(OUTPUTS, program(**batch), strict=True)))


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
    assert tuple(exportable(checkpoint(**options), "").random_inputs(3, torch.Generator())) == names


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


@pytest.mark.parametrize(
    ("preparation", "ways", "said"),
    [
        ({}, None, "none: a beat is one cardiac cycle, S1 to S1, brought to 2000 points by a cubic"),
        ({}, {"automatic": 2, "ecg": 1}, "one cardiac cycle, S1 to S1 or R-peak to R-peak, brought"),
        ({"onsets": "ecg"}, None, "one cardiac cycle, R-peak to R-peak, brought"),
        ({"beats_per_sample": 3}, None, "none: a row is 3 successive cardiac cycles, S1 to S1, brought"),
        ({"cut": "windows", "window_seconds": 2.5}, {"none": 1}, "40 Hz: a row is a window of 2.5 s"),
    ],
)
def test_a_file_says_how_its_input_was_cut(preparation, ways, said):
    content = checkpoint()
    content["cache"]["settings"] |= preparation
    content["cache"] |= {"beat_source": ways} if ways else {}
    assert said in exportable(content, "").metadata["sampling_rate"]


def test_a_file_says_that_its_input_is_filtered():
    content = checkpoint()
    assert "band-passed" not in exportable(content, "").metadata["scaling"]
    content["cache"]["settings"]["bandpass"] = True
    assert "band-passed, then z-scored" in exportable(content, "").metadata["scaling"]
