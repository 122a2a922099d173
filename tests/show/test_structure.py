from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import browser
import clouds
import pandas as pd
import pytest

from tuneledger.show import structure
from tuneledger.show.svg import PAPER, standalone

MANY = [f"label {letter}" for letter in "abcdefghijkl"]
USE = re.compile(r'<use href="#([\w-]+?)(w?)" x="([\d.]+)" y="([\d.]+)"/>')


@pytest.fixture(scope="module")
def values() -> structure.Structure:
    return clouds.values()


@pytest.fixture(scope="module")
def page(values) -> str:
    return structure.html(values)


def frames_of(page: str) -> list[str]:
    return re.findall(r'<figure class="structure-frame">.*?</figure>', page, flags=re.DOTALL)


def places(frame: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for _, _, x, y in USE.findall(frame)]


def test_a_frame_for_each_epoch_and_before(page):
    titles = [re.search("<h3>(.*?)</h3>", frame)[1] for frame in frames_of(page)]
    assert titles == ["Before training", "After epoch 1", "After epoch 2", "After epoch 3"]


@pytest.mark.skipif(browser.find() is None, reason="no browser to play the frames in")
@pytest.mark.parametrize("width", [360, 1280])
def test_the_player_steps_and_plays(page, width):
    played = """<script>
      const stage = document.querySelector('.structure-stage');
      const said = document.querySelector('.structure-said');
      const title = () => [...document.querySelectorAll('.structure-now h3')].map(h3 => h3.textContent).join();
      const expect = (found, wanted) => { if (found !== wanted) throw new Error(`${found} for ${wanted}`); };
      const press = (key, more) => {
        const event = new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true, ...more});
        stage.dispatchEvent(event);
        return event.defaultPrevented;
      };
      expect(title(), 'Before training');
      document.querySelector('[data-step="1"]').click();
      expect(title(), 'After epoch 1');
      expect(press('ArrowRight'), true);
      expect(title(), 'After epoch 2');
      expect(press('ArrowLeft', {altKey: true}), false);
      expect(title(), 'After epoch 2');
      expect(said.textContent.slice(0, 27), 'After epoch 2: separability');
      document.querySelector('.structure-play').click();
      expect(title(), 'After epoch 3');
      expect(document.querySelector('.structure-play').textContent, 'Pause');
    </script>"""
    assert browser.problems(page.replace("</body>", f"{played}</body>"), width, "light") == []


def test_every_frame_has_every_row_in_the_same_order(values, page):
    """So that the script can move each point to its next place."""
    rows = values.points.groupby("epoch")["label"].apply(list)
    symbols = {"no": "structure-0", "yes": "structure-1"}
    for frame, labels in zip(frames_of(page), rows, strict=True):
        assert [symbol for symbol, *_ in USE.findall(frame)] == [symbols[label] for label in labels]


def test_a_ring_is_around_the_misclassified_and_their_number_is_said(values, page):
    for epoch, frame in enumerate(frames_of(page)):
        points = values.points[values.points["epoch"] == epoch]
        wrong = (points["label"] != points["predicted"]).tolist()
        assert [ring == "w" for _, ring, *_ in USE.findall(frame)] == wrong
        assert f"<dt>Misclassified</dt><dd><b>{sum(wrong)}</b>of 40</dd>" in frame


def test_all_frames_have_the_same_axes(values, page):
    """What is twice as far apart in the data is so in the picture, from frame to frame as within one."""
    drawn = [place for frame in frames_of(page) for place in places(frame)]
    for index, along in enumerate("xy"):
        at, shown = values.points[along].tolist(), [place[index] for place in drawn]
        lowest, highest = at.index(min(at)), at.index(max(at))
        scale = (shown[highest] - shown[lowest]) / (max(at) - min(at))
        assert scale > 0 if along == "x" else scale < 0  # in a picture y grows downwards
        expected = [shown[lowest] + scale * (value - min(at)) for value in at]
        assert shown == pytest.approx(expected, abs=0.11)  # drawn to a tenth of a point


def test_the_points_fill_the_drawn_plane_up_to_its_margin(page):
    """5 % of their range on each side, measured from the edges that matplotlib drew."""
    xs, ys = zip(*(place for frame in frames_of(page) for place in places(frame)), strict=True)
    for number, frame in enumerate(frames_of(page)):
        outline = re.search(rf'id="structure-{number}-patch_2">\s*<path d="([^"]+)"', frame)[1]
        corners = [float(value) for value in re.findall(r"[\d.]+", outline)]
        for drawn, edges in ((xs, corners[0::2]), (ys, corners[1::2])):
            margin = 0.05 * (max(drawn) - min(drawn))
            assert [min(edges), max(edges)] == pytest.approx([min(drawn) - margin, max(drawn) + margin], abs=0.2)


def test_every_symbol_is_defined_and_every_id_is_used_once(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {symbol + ring for symbol, ring, *_ in USE.findall(page)} <= set(ids)
    assert set(re.findall(r'<use href="#([^"]+)"', page)) <= set(ids)


def test_scores_are_shown_with_interval_and_baseline(values, page):
    last, frame = values.frames.iloc[-1], frames_of(page)[-1]
    assert f'<b class="structure-separability">{last["separability"]:.3f}</b>' in frame
    assert f"{last['separability_low']:.3f}–{last['separability_high']:.3f}" in frame
    assert f"<b>{last['accuracy']:.3f}</b>{last['accuracy_low']:.3f}–{last['accuracy_high']:.3f}" in frame
    assert f"<b>{values.summary['majority_baseline']:.3f}</b>for both" in frame


@pytest.mark.parametrize(
    ("changes", "last", "words"),
    [
        ({"won": 20, "lost": 5, "p": 0.004}, 0.8, "0.800 after the last epoch. Training drew the labels apart"),
        ({"won": 5, "lost": 20, "p": 0.004}, 0.4, "Training blurred the labels (5 rows gained, 20 lost; p = 0.004"),
        ({"won": 9, "lost": 7, "p": 0.8036}, 0.6, "That is within chance for 40 rows (9 rows gained, 7 lost; p = 0.80"),
        ({"won": 30, "lost": 0, "p": 0.0}, 0.9, "p < 0.001 by McNemar"),
    ],
)
def test_verdict(values, changes, last, words):
    frames = values.frames.assign(separability=[0.5, 0.5, 0.5, last])
    text = structure.verdict(replace(values, frames=frames, summary=values.summary | changes))
    assert text.startswith("Separability was 0.500 before training")
    assert words in text


def test_of_many_labels_the_most_frequent_have_a_look_of_their_own():
    many = clouds.values(MANY, rows=200, epochs=1)
    counts = many.points[many.points["epoch"] == 0]["label"].value_counts()
    shown = dict(structure.groups(many))
    rest = shown.pop(None)
    assert len(shown) == 8
    assert list(shown) == [name for name in MANY if name in shown]
    assert shown == counts[list(shown)].to_dict()
    assert min(shown.values()) >= max(counts.drop(list(shown)))
    assert sum(shown.values()) + rest == 200
    page = structure.html(many)
    assert f"other labels <span>{rest} rows</span>" in page
    assert len(re.findall(r'<use href="#structure-8w?" x', page)) == 2 * rest


def test_a_label_called_like_the_others_is_one_of_its_own():
    assert dict(structure.groups(clouds.values(["other labels", "None"]))).keys() == {"other labels", "None"}


def test_labels_without_rows_are_left_out(values):
    summary = values.summary | {"labels": ["never", *values.summary["labels"]]}
    assert [name for name, _ in structure.groups(replace(values, summary=summary))] == ["no", "yes"]


def test_names_are_text_not_markup_nor_formulas():
    odd = clouds.values(["<b>&$x^2$", "it's a label so long that it would not fit into a picture"], epochs=1)
    page = structure.html(odd)
    assert "&lt;b&gt;&amp;$x^2$ <span>" in page and "<b>&$" not in page
    drawn = structure.pictures(odd)["structure-frames"]
    assert "&lt;b&gt;&amp;$x^2$" in drawn and "it's a label so long …" in drawn


def test_of_a_long_training_evenly_spaced_frames_are_drawn_and_all_are_told():
    long = clouds.values(rows=12, epochs=39)
    page = structure.html(long)
    drawn = [int(number) for number in re.findall(r"<h3>After epoch (\d+)</h3>", page)]
    assert len(frames_of(page)) == structure.FRAMES == len(drawn) + 1
    assert drawn[-1] == 39
    assert {b - a for a, b in pairwise([0, *drawn])} == {2, 3}
    assert "20 of 40 frames, evenly spaced" in page
    assert page.count("<td>After epoch") == 39
    assert "evenly spaced" not in structure.html(clouds.values())


def test_a_thousand_rows_and_ten_epochs_weigh_less_than_a_megabyte():
    some = clouds.values(MANY, rows=100, epochs=10)
    full = replace(some, points=pd.concat([some.points] * 10).sort_values("epoch", kind="stable"))
    assert len(structure.html(full).encode()) < 1_000_000
    assert all(len(svg) < 1_000_000 for svg in structure.pictures(full).values())


def test_the_page_fetches_nothing_and_is_whole_without_a_script(page):
    assert "http" not in page
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)|url\((?!#)|@import|<link|<iframe""", page)
    assert 'class="structure-player" role="group" aria-label="Player" hidden' in page
    assert "structure-live" not in re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)


def test_the_section_is_the_page_without_its_head(values, page):
    section = structure.section(values)
    assert section in page
    assert "<html" not in section and "<h1" not in section


def test_equal_values_give_equal_bytes(values, page):
    assert structure.html(values) == page
    assert structure.pictures(values) == structure.pictures(values)


def test_pictures_are_files_of_their_own(values):
    drawn = structure.pictures(values)
    assert drawn.keys() == {"structure-frames", "structure-scores"}
    for svg in drawn.values():
        file = standalone(svg)
        ElementTree.fromstring(file.split("\n", 1)[1])
        assert "var(" not in file
        ids = re.findall(r'\bid="([^"]+)"', file)
        assert set(re.findall(r'href="#([^"]+)"', file)) <= set(ids)
        assert len(ids) == len(set(ids))


def test_all_frames_side_by_side(values):
    svg = structure.pictures(values)["structure-frames"]
    texts = re.findall(r">([^<>\n]+)</(?:text|tspan)>", svg)
    named = [f"epoch {line.epoch} · {line.separability:.3f}" for line in values.frames.itertuples()]
    assert {*named[1:], named[0].replace("epoch 0", "before")} <= set(texts)
    assert {"no", "yes", "misclassified"} <= set(texts)
    assert len(USE.findall(svg)) == 4 * 40
    assert "<text" in structure.pictures(clouds.values(rows=12, epochs=30))["structure-frames"]


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.2."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_points_stand_out_from_light_and_from_dark_paper(page):
    dark = dict(re.findall(r"--(\w+): (#\w{6})", page[page.index("prefers-color-scheme: dark") :]))
    for _, _, light, on_page in [*structure._LOOKS, structure._REST]:
        variable = re.fullmatch(r"var\(--(\w+)\)", on_page)
        for colour, paper in ((light, PAPER), (dark[variable[1]] if variable else on_page, dark["card"])):
            high, low = sorted((luminance(colour), luminance(paper)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 3, (colour, paper)


def test_labels_differ_by_shape_as_well_as_by_colour():
    shapes, colours = zip(*((marker, colour) for marker, _, colour, _ in structure._LOOKS), strict=True)
    assert len(set(shapes)) == len(set(colours)) == 8
