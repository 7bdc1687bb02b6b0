"""What the documentation names exists, and what exists is named."""

import re
from pathlib import Path

from models import MODELS
from studies.physionet2016.benchmark import parts

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_model_is_in_the_readme():
    assert [name for name in MODELS if f"`{name}`" not in README] == []


def test_every_model_is_in_the_study():
    names = {part.name for part in parts()}
    assert [model for model in MODELS if f"{model}-session-seed0" not in names] == []


def test_parts_of_the_study_have_names_of_their_own():
    names = [part.name for part in parts()]
    assert len(names) == len(set(names))


def test_files_the_readme_links_to_exist():
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert linked
    assert [name for name in linked if not (ROOT / name).exists()] == []
