import pytest

from learning.checkpoint import BEST, LAST
from systems.base import evaluation_run
from systems.base.evaluation_run import folds_said


def checkpoint(fold=0, protocol="session", history=()):
    return {
        "fold": fold,
        "protocol": protocol,
        "settings": {"fold_count": 0 if protocol == "database" else 5},
        "trained_on": {"database": ["a", "b"]},
        "progress": {"epoch": len(history), "history": list(history)},
    }


@pytest.mark.parametrize(
    ("folds", "protocol", "said"),
    [
        ([0], "session", "1 of 5 folds"),
        ([0, 1, 2, 3, 4], "patient", "5 of 5 folds"),
        ([0], "official", "1 of 1 fold"),
        ([0], "database", "1 of 3 folds"),
        ([-1], "database", "1 of 1 fold"),
        ([-1], "session", "1 of 1 fold"),
    ],
)
def test_how_many_folds_are_evaluated_is_said(folds, protocol, said):
    assert folds_said([checkpoint(fold, protocol) for fold in folds]) == said


def test_the_curves_hold_all_epochs_and_not_only_those_up_to_the_best(tmp_path, monkeypatch):
    epochs = [{"val/loss": value} for value in (0.3, 0.2, 0.4)]
    best, last = checkpoint(history=epochs[:2]), checkpoint(history=epochs)
    monkeypatch.setattr(evaluation_run, "load_checkpoint", {tmp_path / LAST: last}.__getitem__)
    assert evaluation_run._histories({tmp_path / BEST: best}) == {"fold_0": epochs[:2]}
    (tmp_path / LAST).touch()
    assert evaluation_run._histories({tmp_path / BEST: best}) == {"fold_0": epochs}
    assert evaluation_run._kept_epoch(best) == 2
