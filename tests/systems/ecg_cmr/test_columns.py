"""Which columns of the data are inputs, which are learned, and that no other is either of them."""

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from common.errors import UserError
from systems.ecg_cmr.contrast.task import EcgCmrContrast
from systems.ecg_cmr.phenotypes.conformal import choices
from systems.ecg_cmr.phenotypes.task import EcgPhenotypes
from systems.ecg_cmr.samples import Pairs, check_columns, choose_columns
from systems.ecg_cmr.settings import COVARIATES, ContrastSettings, EncoderSettings, PhenotypeSettings

COUNT = 6
NAN = float("nan")
SIZES = EncoderSettings(width=16, depth=1, heads=2, patch_seconds=0.4, patch_pixels=8)
VALUES = {
    "lv_edv": [100.0, 120.0, 140.0, NAN, 150.0, 160.0],
    "disease_dilated": [0.0, 1.0, 0.0, 1.0, NAN, 0.0],
    "class_subtype": [0.0, 1.0, 2.0, NAN, 1.0, 0.0],
    "age": [40.0, 50.0, 60.0, 70.0, NAN, 80.0],
    "sex": [0.0, 1.0, 0.0, 1.0, 0.0, 1.0],
    "bmi": [22.0, NAN, 30.0, 27.0, 25.0, 900.0],
    "smoking": [1.0, 0.0, NAN, 1.0, 0.0, 0.0],
}
GROUPS = {
    "indicators": ("lv_edv",),
    "diseases": ("disease_dilated",),
    "classes": ("class_subtype",),
    "covariates": ("age", "sex"),
    "others": ("bmi", "smoking"),
}
LABELS = {"class_subtype": ("dilated", "hypertrophic", "none of these")}
USUAL = (COVARIATES, ("known",))


def everything() -> Pairs:
    columns = {name: torch.tensor(values) for name, values in VALUES.items()}
    return Pairs(
        table=pd.DataFrame({"session": list("abcdef")}),
        ecg=torch.zeros(COUNT, 12, 40),
        lead_present=torch.ones(COUNT, 12, dtype=torch.bool),
        cmr=torch.zeros(COUNT, 2, 16, 16),
        has={},
        targets={group: torch.stack([columns[name] for name in names], 1) for group, names in GROUPS.items()},
        names=GROUPS,
        ecg_rate=50.0,
        labels=LABELS,
    )


def groups(samples: Pairs) -> dict[str, tuple[str, ...]]:
    return {group: names for group, names in samples.names.items() if names}


def test_what_nobody_named_is_neither_learned_nor_an_input_and_said_so():
    samples = choose_columns(everything(), *USUAL)
    assert groups(samples) == {
        "indicators": ("lv_edv",),
        "diseases": ("disease_dilated",),
        "classes": ("class_subtype",),
        "covariates": ("age", "sex"),
    }
    said = check_columns(samples, everything())
    assert said.startswith("Columns that are neither learned nor an input: bmi, smoking.")


@pytest.mark.parametrize(
    ("covariates", "targets", "expected"),
    [
        (("bmi", "age"), ("known",), {"indicators": ("lv_edv",), "covariates": ("bmi", "age")}),
        (("none",), ("lv_edv",), {"indicators": ("lv_edv",)}),
        (COVARIATES, ("bmi",), {"indicators": ("bmi",), "covariates": ("age", "sex")}),
        (COVARIATES, ("disease_dilated",), {"diseases": ("disease_dilated",), "covariates": ("age", "sex")}),
        (("lv_edv",), ("known",), {"covariates": ("lv_edv",)}),
        (("none",), ("known", "age"), {"indicators": ("lv_edv", "age")}),
    ],
)
def test_named_columns_are_what_they_are_named_as(covariates, targets, expected):
    found = groups(choose_columns(everything(), covariates, targets))
    for group in ("indicators", "covariates"):
        assert found.get(group, ()) == expected.get(group, ())
    if "known" not in targets:
        assert found == expected


def test_a_chosen_column_keeps_its_values_and_what_is_missing():
    samples = choose_columns(everything(), ("smoking", "bmi"), ("known",))
    found = samples.targets["covariates"]
    assert found[:, 0].isnan().tolist() == [False, False, True, False, False, False]
    assert found[0].tolist() == [1.0, 22.0]


def test_a_column_that_is_not_there_is_refused_by_name_and_its_neighbour_named():
    samples = choose_columns(everything(), ("smokin",), ("known",))
    with pytest.raises(UserError, match=r"no column 'smokin'\. Perhaps you meant smoking"):
        check_columns(samples, everything())
    with pytest.raises(UserError, match="bmi is named by --covariates and by --targets"):
        choose_columns(everything(), ("bmi",), ("bmi",))


def test_usual_covariates_that_the_data_lack_are_left_away():
    assert choose_columns(everything(), *USUAL).names["covariates"] == ("age", "sex")


def test_classes_of_another_table_are_matched_by_their_text(capsys):
    samples = choose_columns(everything(), *USUAL)
    inputs = samples.describe_inputs() | {"classes": {"class_subtype": ["hypertrophic", "dilated"]}}
    found = everything().with_inputs(inputs).targets["classes"][:, 0]
    assert found[[0, 1, 4, 5]].tolist() == [1.0, 0.0, 0.0, 1.0]
    assert found[[2, 3]].isnan().all(), "a class that the model does not know is not known"
    assert "these data have none of these too" in capsys.readouterr().out
    everything().with_inputs(samples.describe_inputs())
    assert not capsys.readouterr().out


def test_an_external_cache_without_a_covariate_counts_it_as_missing():
    inputs = choose_columns(everything(), ("bmi", "income"), ("known",)).describe_inputs()
    found = everything().with_inputs(inputs)
    assert found.names["covariates"] == ("bmi", "income")
    assert found.targets["covariates"][:, 1].isnan().all()


def test_a_run_of_an_own_column_is_evaluated_on_it_whatever_is_known_by_name():
    """As runs were trained before indicators had names: their checkpoint lists the column."""
    task = EcgPhenotypes(PhenotypeSettings())
    task.everything = everything()
    samples = choose_columns(task.everything, *USUAL)
    inputs = samples.describe_inputs() | {"indicators": ["bmi"]}
    assert task.with_inputs(samples, inputs).targets["indicators"][0].tolist() == [22.0]


def test_errors_are_measured_for_all_choices_of_few_covariates_and_some_of_many():
    assert len(choices(("age", "sex"))) == 4
    many = ("age", "sex", *(f"c{number}" for number in range(22)))
    found = choices(many)
    assert found[0] == many and () in found and ("age",) in found and many[1:] in found
    assert len(found) == len(set(found)) == 1 + 24 + 4


@pytest.mark.parametrize(
    ("kind", "task"), [(PhenotypeSettings, EcgPhenotypes), (ContrastSettings, EcgCmrContrast)]
)
def test_both_stages_take_any_column_as_an_input(kind: Any, task: Any):
    """The contrast has none unless they are named; fine-tuning has the usual four."""
    assert kind().covariates == (COVARIATES if kind is PhenotypeSettings else ())
    assert task(kind(covariates=("bmi",))).settings.covariates == ("bmi",)


def test_covariates_of_the_contrast_are_scaled_by_the_training_patients_alone():
    """Patients 0 to 3 are learned from: of bmi 22, 30 and 27 are known, and 900 is somebody else's."""
    task = EcgCmrContrast(ContrastSettings(covariates=("bmi",), encoder=SIZES, dimension=4))
    task.everything = everything()
    samples = choose_columns(task.everything, ("bmi",), ("known",))
    torch.manual_seed(0)
    model: Any = task.build(task.inputs(samples))
    context: Any = SimpleNamespace(samples=samples, train=torch.arange(4), label="fold 0")
    task.initialize(model, context)
    assert model.modulation.mean.item() == pytest.approx(79 / 3)
    assert model.modulation.deviation.item() == pytest.approx(
        torch.tensor([22.0, 30.0, 27.0]).std(correction=0)
    )
    model.eval()
    ecg = torch.randn(3, 12, 40, generator=torch.Generator().manual_seed(1))
    one, other = (
        model.embed("ecg", ecg, covariates=torch.tensor([[value]]).expand(3, 1))["whole"]
        for value in (22.0, NAN)
    )
    assert torch.equal(one, other), "it begins as if there were none"
    torch.nn.init.normal_(model.modulation.film.modulation[-1].weight)
    values = torch.tensor([[22.0], [30.0], [NAN]])
    found = model.embed("ecg", ecg[:1].expand(3, -1, -1), covariates=values)["whole"]
    assert found.isfinite().all() and not torch.allclose(found[0], found[1], atol=1e-3)
    with pytest.raises(ValueError, match="none were given"):
        model.embed("ecg", ecg)
    context.train = torch.tensor([1])
    with pytest.raises(UserError, match="fold 0: covariates without a value in the training part: bmi"):
        task.initialize(model, context)


@pytest.mark.parametrize(("stored", "read"), [(True, COVARIATES), (False, ("none",))])
def test_settings_of_a_run_that_stored_a_switch_are_read(stored: Any, read):
    assert PhenotypeSettings(covariates=stored).covariates == read
