"""The figures: what the SVG says, within the page, the same bytes each time."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.procfs import read_snapshot
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.views.layout import Layout, layout
from prctlmm_lab.views.pictures import HEIGHT, WIDTH, draw, save
from prctlmm_lab.views.svg import address_space_svg
from tests.views.address_spaces import FACTS, HOSTILE, snapshot, vma
from tests.views.test_svg import texts

pytestmark = pytest.mark.starts_for_session("matplotlib keeps the files of its faces open")


def words(figure: Figure) -> list[Text]:
    (axes,) = figure.axes
    return [text for text in axes.findobj(Text) if text.get_text()]


def moved(specimen: Specimen) -> Layout:
    """Lay out a specimen whose command line and heap were moved."""
    before = specimen.snapshot()
    arena, heap = specimen.map(0x3000), specimen.map(0x8000)
    new = specimen.current_map().changed(
        arg_start=arena + 16, arg_end=arena + 28, start_brk=heap, brk=heap + 0x4000
    )
    assert specimen.set_map(new) == 0
    return layout(specimen.snapshot(), before=before, facts=FACTS)


def test_both_renderers_write_the_same_words(specimen: Specimen) -> None:
    for picture in (layout(specimen.snapshot()), moved(specimen), layout(read_snapshot())):
        assert [t.get_text() for t in words(draw(picture))] == texts(address_space_svg(picture))


def test_no_word_lies_on_another_or_is_cut_off(specimen: Specimen) -> None:
    for picture in (layout(specimen.snapshot()), moved(specimen), layout(read_snapshot())):
        figure = draw(picture)
        renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
        page = figure.bbox
        extents = [(t.get_text(), t.get_window_extent(renderer)) for t in words(figure)]
        for text, box in extents:
            assert page.x0 <= box.x0 < box.x1 <= page.x1, text
            assert page.y0 <= box.y0 < box.y1 <= page.y1, text
        # A text's extent has room for accents and descenders that digits and names do not use.
        tight = [(text, box.expanded(1, 0.6)) for text, box in extents]
        for (one, a), (other, b) in combinations(tight, 2):
            assert not a.overlaps(b), (one, other)


def test_it_fits_a_page(specimen: Specimen) -> None:
    for picture in (layout(specimen.snapshot()), layout(read_snapshot())):
        width, height = draw(picture).get_size_inches() * 2.54
        assert width == pytest.approx(WIDTH) or height == pytest.approx(HEIGHT)
        assert width <= WIDTH + 0.01
        assert height <= HEIGHT + 0.01


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_the_same_picture_is_the_same_bytes(tmp_path: Path, ending: str) -> None:
    state = snapshot((vma(0x1000, 0x5000, name="[heap]"),), {"start_brk": 0x1000})
    for name in ("one", "two"):
        save(draw(state), tmp_path / f"{name}.{ending}")
    one = (tmp_path / f"one.{ending}").read_bytes()
    assert one == (tmp_path / f"two.{ending}").read_bytes()
    assert one.startswith({"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[ending])
    assert b"Date" not in one


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_drawn_without_a_warning(tmp_path: Path, name: str) -> None:
    state = snapshot((vma(0x1000, 0x2000, "r-xp", name),), {}, comm=name)
    save(draw(state), tmp_path / "picture.png")


@pytest.mark.parametrize("name", ["picture", "picture.jpg", "picture.svg.gz"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.pdf, \.png, \.svg"):
        save(draw(snapshot((), {})), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_layout_takes_no_more_keywords() -> None:
    state = snapshot((), {})
    with pytest.raises(InputError, match="ready"):
        draw(layout(state), before=state)


def test_it_draws_into_axes_that_exist() -> None:
    figure = Figure(figsize=(12, 6))
    left, right = figure.subplots(1, 2)
    assert draw(snapshot((), {}), ax=right) is figure
    assert right.findobj(Text, include_self=False)
    assert left.axison
    assert not right.axison


def test_a_notebook_gets_a_png_of_the_figure_itself() -> None:
    figure = draw(snapshot((), {}))
    assert figure._repr_png_()[0].startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_pyplot_is_not_touched() -> None:
    import subprocess

    program = (
        "import sys; from prctlmm_lab.kernel.procfs import read_snapshot;"
        "from prctlmm_lab.views.pictures import draw;"
        "assert 'matplotlib' not in sys.modules; draw(read_snapshot());"
        "assert 'matplotlib.figure' in sys.modules; print('matplotlib.pyplot' in sys.modules)"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "DISPLAY": ""}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (answer.stdout, answer.stderr) == ("False\n", "")
