"""The pictures of the README show what the code is."""

from matplotlib.text import Text

from models.pacfnet import PACFNet
from studies.pictures import architecture_figure


def test_the_architecture_is_drawn_with_its_sizes():
    figure = architecture_figure(PACFNet())
    texts = [text.get_text() for text in figure.findobj(Text)]
    for level, size in enumerate(("64 × 2000", "128 × 400", "192 × 80", "256 × 16"), start=1):
        assert f"SACMF {level}\n{size}" in texts
        assert texts.count(f"encoder level {level}\n{size}") == 2 * texts.count(f"SACMF {level}\n{size}")
    assert any("11,723,898 parameters" in text for text in texts)
