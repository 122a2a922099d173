from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import browser
import descents
import pytest

from tuneledger.show import descent
from tuneledger.show.svg import standalone


@pytest.fixture(scope="module")
def values() -> descent.Descent:
    return descents.values()


@pytest.fixture(scope="module")
def pictures(values) -> dict[str, str]:
    return descent.pictures(values)


def test_every_picture_is_one_svg_that_fits_into_a_page(pictures):
    ids: list[str] = []
    for name, svg in pictures.items():
        assert name.startswith("descent-")
        root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
        assert root.tag == "svg" and root.get("role") == "img" and root.get("aria-label")
        ElementTree.fromstring(standalone(svg).partition("\n")[2])
        own = re.findall(r'\bid="([^"]+)"', svg)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= set(own)
        ids += own
        assert "http" not in svg and "<style" not in svg
    assert len(ids) == len(set(ids))


def test_equal_values_give_equal_bytes(values):
    assert descent.html(values) == descent.html(values)


def test_a_path_can_be_shown_iteration_by_iteration(values, pictures):
    for name in ("descent-surface", "descent-loss"):
        for index in range(len(values.summary["rates"])):
            group = pictures[name].split(f'id="{name}-path-{index}"')[1].split("</g>\n   </g>")[0]
            drawn = re.search(r'<path d="([^"]+)"', group)[1]
            assert len(re.findall(r"[ML]", drawn)) == values.summary["iterations"] + 1


@pytest.mark.skipif(browser.find() is None, reason="no browser to move the slider in")
@pytest.mark.parametrize("width", [360, 1280])
def test_the_slider_shows_as_many_iterations_as_it_says(values, width):
    moved = """<script>
      const slider = document.querySelector('.descent-player input');
      slider.value = 5;
      slider.dispatchEvent(new Event('input'));
      const line = document.querySelector('#descent-surface-path-0 path');
      const points = line.getAttribute('d').match(/[ML]/g).length;
      const uses = [...document.querySelectorAll('#descent-loss-path-1 use')];
      const marks = uses.filter(use => use.style.display !== 'none').length;
      const told = document.querySelector('.descent-player output').textContent;
      if (points !== 6 || marks !== 6 || told !== 'iteration 5') throw new Error(`${points} ${marks} ${told}`);
    </script>"""
    page = descent.html(values)
    assert browser.problems(page.replace("</body>", f"{moved}</body>"), width, "light") == []


class TestTexts:
    def test_the_verdict_follows_from_the_numbers(self):
        both = descents.values(rates=(0.1, 5.0), outcomes={0.1: {"outcome": "learns"}})
        assert descent.verdict(both.summary) == (
            "On the head, 0.1 lies below the stability edge, where descent settles, and 5 lies beyond the stability "
            "edge, where it cannot. On the whole encoder under AdamW, 0.1 does not diverge, and 5 diverges."
        )

    def test_several_rates_have_a_plural(self, values):
        assert descent.verdict(values.summary) == (
            "On the head, 0.1 and 0.01 lie below the stability edge, where descent settles. "
            "On the whole encoder under AdamW, 0.1 and 0.01 diverge."
        )

    def test_a_path_is_told_with_what_it_did(self, values):
        run = {"rate": 0.5, "regime": "zigzag", "loss": 0.6, "rises": 1, "turns": 20}
        summary = {**values.summary, "edge": 0.8, "start_loss": 0.7, "lowest_loss": 0.5}
        assert descent.path_text(run, summary) == (
            "At 62\N{NO-BREAK SPACE}% of the edge, more than half, it should zigzag near the minimum but close in. "
            "In 20 iterations it turned back across the valley 20 times, the loss rose once, and it ended at "
            "0.6000, 50 % of the way down."
        )

    def test_a_loss_above_that_of_the_start_is_no_way_down(self, values):
        run = {"rate": 5.0, "regime": "unstable", "loss": 9.5, "rises": 10, "turns": 0}
        assert descent.path_text(run, values.summary).endswith(
            "it never turned back, the loss rose 10 times, and it ended at 9.5000, no lower than at the start."
        )

    def test_a_diverged_encoder_is_told_with_the_rule(self, values):
        run = values.summary["encoder"]["runs"][0]
        assert descent.run_text(run, values.summary) == (
            "A step moves a weight by about 1.7 times its typical size; all in all the weights moved by 6.8 times "
            "their own length. The last 10 losses have a mean of 4.270 ± 1.030, above the threshold of 0.750: diverged."
        )

    def test_a_loss_that_is_no_number_has_no_mean(self):
        broken = descents.values(outcomes={0.1: {"loss": None, "error": None, "moved": None}})
        assert "The loss is no longer a number: diverged." in descent.html(broken)
        assert descent.rows(broken.summary)[0][3] == ("diverges", "not a number")

    def test_the_table_has_every_rate_once(self, values):
        rows = descent.rows(values.summary)
        assert [row[0] for row in rows][:2] == ["0.1", "0.01"]
        assert rows[2][0].endswith(", past the edge") and rows[2][3] == "–"
        assert rows[3][0] == "1e-4, as configured" and rows[3][1:3] == ["–", "–"]

    def test_a_compared_rate_can_be_the_configured_one(self, values):
        encoder = {**values.summary["encoder"], "configured": 0.01, "runs": values.summary["encoder"]["runs"][:2]}
        same = replace(values, summary={**values.summary, "encoder": encoder})
        assert [row[0] for row in descent.rows(same.summary)][:2] == ["0.1", "0.01, as configured"]
        assert "0.01, as configured" in descent.html(same)

    def test_where_the_curvature_is_higher_is_told(self, values):
        flatter = {**values.summary, "start_edge": 0.3, "edge": 0.5}
        assert "more sharply curved at the start" in descent.at_start(flatter)
        assert "less sharply curved at the start" in descent.at_start({**flatter, "start_edge": 0.7})

    def test_the_edges_are_side_by_side(self, values):
        facts = dict(descent.edge_facts(values))
        assert facts["Computed, 2 / λ"][0] == descent.digits(values.summary["edge"])
        gap = 100 * (values.summary["measured_edge"] / values.summary["edge"] - 1)
        assert facts["Measured, by bisection"][1].startswith(f"{abs(gap):.2g} %")


def test_three_rates_and_a_wild_one_still_make_a_page():
    page = descent.html(descents.values(rates=(8.0, 0.3, 0.02), iterations=150))
    assert "Learning rates 8, 0.3 and 0.02" in page
    assert 'data-every="3"' in page
