"""Networks of beats whose answers depend on what they are asked about, and what exporting them must keep."""

from typing import Any

import torch

from common.command_line import to_plain
from systems.base.exporting import TOLERANCE, Exportable, Run
from systems.ecg_pcg.export import OUTPUTS, ExportedBeats, random_beats
from systems.ecg_pcg.settings import ModelSettings, PreparationSettings, TrainingSettings
from systems.ecg_pcg.task import EcgPcg

POINTS = 100
WITHOUT_LEVELS = ("last-fusion", "early-fusion", "late-fusion", "cross-attention")
"""Networks whose levels are fixed; the others are traced in half the time with two of their four."""


def stir(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give a network statistics of random beats, and weights with which its logits spread by about one.

    As it is built, batch normalization leaves next to nothing of the input for the head: no test of anything.
    """
    torch.manual_seed(seed)
    masks = ("has_ecg", "has_pcg") if getattr(network, "absence_tokens", False) else ()
    for module in network.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name, token in network.named_parameters():
        if "tokens" in name:
            torch.nn.init.normal_(token)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(20):
            logits = network(**random_beats(("ecg", "pcg", *masks), 16, POINTS, generator))
        last = [part for part in network.modules() if isinstance(part, torch.nn.Linear)][-1]
        last.weight /= logits.std(dim=0).mean()
    return network.eval()


def checkpoint(seed: int = 0, **options) -> Any:
    """Return the checkpoint of a stirred network of such model settings."""
    settings = TrainingSettings(model=ModelSettings(width=8, points=POINTS, **options))
    torch.manual_seed(seed)
    network = stir(EcgPcg(settings).build(), seed)
    return {
        "task": "ecg-pcg",
        "run": "made",
        "fold": 0,
        "protocol": "session",
        "settings": to_plain(settings),
        "model": network.state_dict(),
        "threshold": 0.375,
        "trained_on": {"content": []},
        "provenance": {"torch": "2.13.0", "commit": "0123456789ab"},
        "cache": {
            "identity": "0" * 64,
            "source": "physionet2016",
            "simulated": False,
            "settings": to_plain(PreparationSettings()),
        },
    }


def exported(network: torch.nn.Module, names: tuple[str, ...]) -> Exportable:
    """Return a network that takes such inputs, ready for export."""

    def random_inputs(rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return random_beats(names, rows, POINTS, generator)

    return Exportable(ExportedBeats(network).eval(), random_inputs, OUTPUTS, {"outputs": ", ".join(OUTPUTS)})


def compare(made: Exportable, run: Run) -> None:
    """Ask the network itself, and the file, about batches of 1 and of 5."""
    network, random_inputs = made.network.get_submodule("network"), made.random_inputs
    for rows in (1, 5):
        inputs = random_inputs(rows, torch.Generator().manual_seed(rows))
        with torch.no_grad():
            logits = network(**inputs)
        found = run(inputs)
        assert found["logits"].shape == (rows, 2)
        assert (found["logits"] - logits).abs().max() <= TOLERANCE
        assert (found["probability"] - logits.softmax(dim=1)[:, 1]).abs().max() <= TOLERANCE
    spread = logits.std(dim=0).max()
    assert spread > 100 * TOLERANCE, "the answers must depend on the input for this to be a test"
