from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from common.command_line import to_plain
from common.errors import UserError
from config import OptimizationSettings
from learning.checkpoint import BEST, LAST
from systems.base import evaluation_run
from systems.base.evaluation_run import EvaluationRun, folds_said, one_model, unseen_rows
from systems.ecg_cmr.autoencoder import evaluate as autoencoder
from systems.ecg_cmr.contrast import evaluate as contrast
from systems.ecg_pcg.settings import ModelSettings, TrainingSettings


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


def test_a_fold_that_is_not_finished_is_named():
    names = {"source_files": "", "source": "", "tables": {}, "settings": {}, "versions": {}}
    cache: Any = SimpleNamespace(describe=lambda: names)
    begun: Any = checkpoint(1, history=[{}, {}]) | {"provenance": {}, "cache": {}}
    begun["settings"] |= {"optimization": {"epochs": 12}}
    begun["progress"] |= {"finished": False}
    (line,) = evaluation_run._changes([begun], cache)
    assert line.startswith(
        "Note: the weights of fold 1 are of epoch 2 of at most 12: the fold is not finished"
    )
    assert not evaluation_run._changes([begun | {"threshold": 0.5}], cache), "best.pt of one that is"
    finished = begun | {"progress": begun["progress"] | {"finished": True}}
    assert not evaluation_run._changes([finished], cache), "last.pt of one that is"


@pytest.mark.parametrize(("model", "expected"), [("pacfnet", 0.7), ("linear", 0.5), ("cycle-shape", 0.5)])
def test_without_class_weights_the_probabilities_of_a_network_assume_the_share_learned_from(model, expected):
    settings = TrainingSettings(
        model=ModelSettings(model=model), optimization=OptimizationSettings(class_weights=False)
    )
    contents: Any = [
        {"task": "ecg-pcg", "settings": to_plain(settings), "label_share": share} for share in (0.6, 0.8)
    ]
    nothing: Any = None
    assert EvaluationRun(contents, nothing, nothing).assumed_prevalence == pytest.approx(expected)


def external(folds: int) -> Any:
    """Return a run of so many folds on a cache of sessions s and t, of whose recordings one was learned."""
    recordings = pd.DataFrame(
        {"recording": list("abc"), "session": list("sst"), "sha256": ["known", "new", "newer"]}
    )
    learned = {"trained_on": {"content": ["known"], "session": ["s"]}, "parents": []}
    return SimpleNamespace(
        checkpoints=[learned] * folds,
        cache=SimpleNamespace(table=lambda _: recordings, path="cache"),
        samples=SimpleNamespace(table=recordings),
        external=True,
    )


def test_an_external_test_has_nothing_of_a_session_that_was_learned_from():
    run = external(1)
    assert unseen_rows(run).tolist() == [2]
    run.samples.table = run.samples.table.iloc[:2]
    with pytest.raises(UserError, match="none is left for an external test"):
        unseen_rows(run)


def test_an_external_test_has_nobody_whom_a_run_before_learned_from():
    run = external(1)
    run.checkpoints[0]["parents"] = [{"kind": "ecg", "session": ["t"], "content": ["newer"]}]
    with pytest.raises(UserError, match="none is left for an external test"):
        unseen_rows(run)
    run.checkpoints[0]["trained_on"] = {"content": [], "session": []}
    assert unseen_rows(run).tolist() == [0, 1]


def test_several_models_without_a_mean_are_refused_on_another_cache():
    one_model(external(1), "No mean")
    for evaluate in (contrast.evaluate, autoencoder.evaluate):
        with pytest.raises(UserError, match="Name a checkpoint, as in --checkpoint"):
            evaluate(external(2))
    with pytest.raises(UserError, match="No mean: on another cache this run is evaluated one fold at a time"):
        one_model(external(2), "No mean")
