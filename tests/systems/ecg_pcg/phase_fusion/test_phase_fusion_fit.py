"""The fit reads training sessions only, and weights the deep path only where it helps."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from common.errors import UserError
from models.phase_fusion import PhaseFusion
from systems.ecg_pcg.linear.fit import fit_logistic
from systems.ecg_pcg.phase_fusion.fit import (
    DeepSettings,
    Recorded,
    choose_share,
    equalized_copies,
    fit_evidence,
    fit_in_span,
    fit_phase_fusion,
    inner_folds,
    train_members,
)

CELLS, BANDS = 8, 6
SIZES: dict[str, Any] = {
    "pcg_shape": (1, CELLS, BANDS),
    "ecg_shape": (1, CELLS, 2),
    "ecg_bands": 3,
    "members": 1,
}
QUICK = DeepSettings(epochs=40, batch_size=48, inner_folds=2, learning_rate=5e-3, noise=0.1)


def recorded(label, seed=0, sessions=40, informative=0.0):
    """Return noise with a label; ``informative`` moves one cell of the sound of class 1."""
    generator = np.random.default_rng(seed)
    count = len(label)
    grid = generator.normal(size=(count, CELLS, BANDS))
    grid[:, 3, 2] += informative * label
    yes = torch.ones(count, dtype=torch.bool)
    return Recorded(
        torch.from_numpy(grid.reshape(count, -1)).float(),
        torch.from_numpy(generator.normal(size=(count, 3))).float(),
        torch.from_numpy(generator.normal(size=(count, CELLS * 2))).float(),
        yes,
        yes.clone(),
        np.asarray(label),
        np.arange(count) % sessions,
    )


def crossed(count=300, seed=0):
    """Return recordings whose label is the sign of a product, which no linear model can learn."""
    made = recorded(np.zeros(count, dtype=int), seed)
    grid = made.pcg_grid.reshape(count, CELLS, BANDS)
    signs = np.random.default_rng(seed + 1).choice([-1.0, 1.0], size=(2, count))
    grid[:, :4, 1] += 1.5 * torch.from_numpy(signs[0]).float()[:, None]
    grid[:, 4:, 1] -= 1.5 * torch.from_numpy(signs[0]).float()[:, None]
    grid[:, :4, 4] += 1.5 * torch.from_numpy(signs[1]).float()[:, None]
    grid[:, 4:, 4] -= 1.5 * torch.from_numpy(signs[1]).float()[:, None]
    label = (signs[0] * signs[1] > 0).astype(np.int64)
    tensors = (grid.flatten(1), made.ecg_bands, made.ecg_grid, made.has_pcg, made.has_ecg)
    return Recorded(*tensors, label, made.session)


def test_copies_are_the_same_recordings_through_smooth_filters():
    grids = torch.randn(50, 3 * 22 * 34, dtype=torch.float64)
    found = equalized_copies(grids, 34, 4, seed=0)
    assert torch.equal(found[:50], grids)
    gain = (found[50:] - grids.repeat(4, 1)).reshape(200, 3 * 22, 34)
    assert torch.allclose(gain, gain[:, :1].expand_as(gain), atol=1e-9)  # alike in all cells and percentiles
    assert gain[:, 0].std() == pytest.approx(0.3, rel=0.25)
    bends = gain[:, 0].diff(n=2, dim=1).abs() > 1e-5
    assert bends.sum(dim=1).max() <= 2 * 4  # straight but at the four inner knots
    assert torch.equal(equalized_copies(grids, 34, 4, seed=0), found)
    assert not torch.equal(equalized_copies(grids, 34, 4, seed=1), found)
    assert torch.equal(equalized_copies(grids, 34, 0, seed=0), grids)


def test_the_fit_in_the_span_is_the_fit_on_all_features():
    label = np.random.default_rng(0).integers(0, 2, 40)
    made = recorded(label, informative=1.0)
    wide = torch.cat([made.pcg_grid] * 1 + [torch.randn(40, 16 * BANDS)], dim=1).double()
    values = equalized_copies(wide, BANDS, 4, seed=0, knots=3).numpy()
    full = fit_logistic(values, np.tile(label, 5), 0.01)
    quick = fit_in_span(values, np.tile(label, 5), 0.01, 40 + 2 * 3)
    assert values.shape[1] > 46
    assert quick.weight == pytest.approx(full.weight, abs=2e-3 * np.abs(full.weight).max())
    assert quick.bias == pytest.approx(full.bias, abs=1e-3)


def test_equalization_takes_weight_from_what_a_filter_changes():
    """Spectral tilt separates the classes of train, shape nearly as well; copies shift weight to shape."""
    label = np.tile([0, 1], 100)
    made = recorded(label, informative=1.5)
    grid = made.pcg_grid.reshape(200, CELLS, BANDS)
    grid[:, :, 0] += 0.5 * torch.from_numpy(label).float()[:, None]
    models: dict[int, Any] = {}
    for copies in (0, 4):
        models[copies] = PhaseFusion(**SIZES)
        fit_evidence(models[copies], made, seed=0, copies=copies)
    weights = {
        copies: (model.evidence["whole"].weight / model.evidence["whole"].scale).detach()
        for copies, model in models.items()
    }
    moved = {copies: weight.reshape(CELLS, BANDS).sum(0).norm() for copies, weight in weights.items()}
    kept = {copies: weight.reshape(CELLS, BANDS)[3, 2] for copies, weight in weights.items()}
    assert moved[4] < 0.9 * moved[0]
    assert float(kept[4]) == pytest.approx(float(kept[0]), rel=0.1)


def test_inner_folds_are_session_level_and_need_enough_sessions():
    label = np.tile([0, 1], 30)
    session = np.repeat(np.arange(12), 5)
    folds = inner_folds(label, session, 4, seed=0) or []
    assert sorted(np.concatenate([test for _, test in folds]).tolist()) == list(range(60))
    assert all(not set(session[train]) & set(session[test]) for train, test in folds)
    assert inner_folds(label, np.repeat([0, 1, 2], 20), 4, seed=0) is None
    assert inner_folds(np.repeat([0, 1], [5, 55]), session, 4, seed=0) is None  # class 0 in one session
    assert inner_folds(np.repeat([0, 1], [4, 2]), np.arange(6), 5, seed=0) is None  # neither class fills five


def test_a_random_deep_path_gets_no_weight_and_an_informative_one_does():
    generator = np.random.default_rng(0)
    label, session = generator.integers(0, 2, 300), np.arange(300) // 6
    evidence = 0.5 * (2 * label - 1) + generator.normal(size=300)
    assert choose_share(evidence, generator.normal(size=300), label, session) == 0
    assert choose_share(evidence, np.zeros(300), label, session) == 0
    assert choose_share(evidence, 2.0 * (2 * label - 1), label, session) == 1.0
    assert choose_share(evidence, -2.0 * (2 * label - 1), label, session) == 0


def test_a_deep_path_informative_in_one_session_only_gets_no_weight():
    """The gain must be more than its standard error over sessions, not over recordings."""
    label, session = np.tile([0, 1], 150), np.arange(300) // 6
    deep = np.where(session == 0, 3.0 * (2 * label - 1), 0.0)
    assert choose_share(np.zeros(300), deep, label, session) == 0


def test_the_deep_path_finds_what_evidence_cannot_and_adds_nothing_on_average():
    train, test = crossed(seed=0), crossed(seed=5)
    model: Any = PhaseFusion(**SIZES, dropout=0.1)
    out_of_fold = fit_phase_fusion(model, train, seed=0, settings=QUICK)
    with torch.no_grad():
        evidence = model.eval().evidence_of(*(test.inputs()[place] for place in (0, 1, 3, 4)))
        both = model(*test.inputs())
        deep = model.deep(*(train.inputs()[place] for place in (0, 2, 3, 4))).numpy()
    assert float(model.share) > 0
    assert roc_auc_score(test.label, evidence) < 0.65
    assert roc_auc_score(test.label, both) > 0.85
    assert roc_auc_score(train.label, out_of_fold) > 0.8
    balanced = np.mean([deep[train.label == value].mean() for value in (0, 1)])
    assert balanced == pytest.approx(0, abs=1e-4)


def test_the_deep_path_gets_no_weight_where_the_evidence_is_sufficient():
    label = np.random.default_rng(3).integers(0, 2, 200)
    model: Any = PhaseFusion(**SIZES)
    settings = DeepSettings(epochs=3, inner_folds=3)
    out_of_fold = fit_phase_fusion(model, recorded(label, informative=3.0), seed=0, settings=settings)
    assert float(model.share) == 0
    assert model.members[0].output.weight.abs().max() == 0
    assert roc_auc_score(label, out_of_fold) > 0.8


def test_the_same_seed_fits_the_same_model_and_leaves_the_global_seed_alone():
    made = crossed(120)
    settings = DeepSettings(epochs=1, inner_folds=2)

    def weights(seed):
        model: Any = PhaseFusion(**SIZES)
        fit_phase_fusion(model, made, seed=seed, settings=settings)
        return model.evidence["whole"].weight.detach().clone()

    first = weights(0)
    torch.manual_seed(7)
    assert torch.equal(first, weights(0))
    after = torch.rand(1)
    torch.manual_seed(7)
    weights(1)
    assert torch.equal(after, torch.rand(1))
    assert not torch.equal(first, weights(1))


def test_one_signal_is_enough_and_without_both_classes_there_is_nothing_to_learn():
    label = np.random.default_rng(3).integers(0, 2, 120)
    made = recorded(label, informative=1.5)
    no = torch.zeros(120, dtype=torch.bool)
    missing = torch.full_like(made.ecg_bands, torch.nan), torch.full_like(made.ecg_grid, torch.nan)
    only = Recorded(made.pcg_grid, *missing, made.has_pcg, no, made.label, made.session)
    model: Any = PhaseFusion(**SIZES)
    fit_phase_fusion(model, only, seed=0, settings=DeepSettings(epochs=2, inner_folds=3))
    assert model.fitted.tolist() == [True, False]
    with torch.no_grad():
        assert torch.isfinite(model.eval()(*only.inputs())).all()
    with pytest.raises(UserError, match="both classes"):
        fit_evidence(PhaseFusion(**SIZES), made.rows(np.flatnonzero(label == 1)), seed=0)


def test_inner_predictions_are_of_sessions_that_were_not_fitted(monkeypatch):
    import systems.ecg_pcg.phase_fusion.fit as module

    learned: dict[int, set[int]] = {}
    alive, calls = [], []
    fit, evidence, deep = module.fit_evidence, module._evidence, module._deep

    def fitted(model, recorded, *arguments):
        alive.append(model)
        learned[id(model)] = set(recorded.session.tolist())
        fit(model, recorded, *arguments)

    def spy(answer):
        def spied(model, recorded):
            calls.append(answer.__name__)
            assert not learned[id(model)] & set(recorded.session.tolist())
            return answer(model, recorded)

        return spied

    monkeypatch.setattr(module, "fit_evidence", fitted)
    monkeypatch.setattr(module, "_evidence", spy(evidence))
    monkeypatch.setattr(module, "_deep", spy(deep))
    settings = DeepSettings(epochs=1, inner_folds=2)
    fit_phase_fusion(PhaseFusion(**SIZES), crossed(120), seed=0, settings=settings)
    assert calls.count("_evidence") == 2 + 2 * 2  # of both folds, and of both folds inside each
    assert calls.count("_deep") == 2


def test_members_start_from_the_log_odds_of_the_evidence(monkeypatch):
    """At the first step a member adds nothing, so the loss gets the offset of each recording."""
    import systems.ecg_pcg.phase_fusion.fit as module

    made, seen = crossed(60), []
    loss = module.functional.binary_cross_entropy_with_logits

    def spied(log_odds, target, **options):
        seen.append((log_odds.detach().clone(), target.clone()))
        return loss(log_odds, target, **options)

    monkeypatch.setattr(module.functional, "binary_cross_entropy_with_logits", spied)
    model: Any = PhaseFusion(**SIZES)
    fit_evidence(model, made, seed=0)
    train_members(model, made, 3.0 * made.label - 1, 0, DeepSettings(epochs=1, batch_size=30))
    log_odds, target = seen[0]
    assert torch.allclose(log_odds, 3.0 * target - 1)
    assert set(target.tolist()) == {0.0, 1.0}
