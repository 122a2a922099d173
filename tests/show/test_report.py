from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tuneledger.show import report


@pytest.fixture
def page(results) -> str:
    return report.html(results)


class Balance(HTMLParser):
    """Fails on a tag that is closed in the wrong order."""

    VOID = frozenset({"meta", "br", "link", "img", "input"})

    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())


def test_the_page_fetches_nothing(page):
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert not re.search(r"url\((?!#)|@import|<link|<iframe", page)
    assert "http" not in page.replace("see https://example.org", "")
    assert len(page.encode()) < 500_000


def test_texts_are_escaped(page):
    assert "&lt;script&gt;alert(1)&lt;/script&gt; see https://example.org" in page
    assert "<script" not in page


def test_tags_are_balanced(page):
    parser = Balance()
    parser.feed(page)
    assert parser.open == []


def test_headline(page):
    assert "<h1>bert-base-uncased on twins</h1>" in page
    assert "Judged on the 4 rows of the test split" in page
    assert "95 % interval 0.700–0.800" in page and "majority 0.642" in page
    assert "no price for this hardware: set cost.usd_per_hour" in page


def test_kept_epoch_is_marked(page):
    rows = re.findall(r"<tr[^>]*>.*?</tr>", page)
    (best,) = [row for row in rows if 'class="best"' in row]
    assert best == (
        '<tr class="best"><td>2</td><td class="n">0.5000</td><td class="n">0.5500</td>'
        '<td class="n">0.761<small>0.712–0.803</small></td><td class="n">0.680</td></tr>'
    )


def test_all_figures_and_settings_are_there(page):
    assert page.count("<figure>") == page.count("<svg") == 5
    assert "<td><code>optim.lr</code></td><td><code>5e-05</code></td>" in page


def test_how_to_reproduce(page):
    assert "git checkout 0123456789abcdef" in page
    assert "with uncommitted changes" in page
    assert "-S optim.lr=5e-05" in page
    assert "MLflow run <code>feedbeef</code>" in page


def test_light_and_dark_and_small(page):
    assert "prefers-color-scheme: dark" in page and 'content="width=device-width' in page


def test_validation_and_collapse_are_said(results):
    predictions = results.predictions.assign(predicted="no")
    changed = replace(results, predictions=predictions, metrics=results.metrics | {"split": "validation"})
    for text in (report.html(changed), report.short(changed)):
        assert "no labelled test split" in text
        assert "one and the same label" in text


@pytest.mark.parametrize(("selected_by", "said"), [("f1 (max)", True), ("epoch (max)", False)])
def test_validation_chose_the_epoch_only_where_a_score_did(results, selected_by, said):
    train = results.train | {"selected_by": selected_by}
    changed = replace(results, train=train, metrics=results.metrics | {"split": "validation"})
    for text in (report.html(changed), report.short(changed)):
        assert ("also chose the epoch to keep" in text) == said


def test_nothing_to_show(results):
    flawless = results.predictions.assign(predicted=results.predictions["label"])
    page = report.html(
        replace(results, predictions=flawless, slices=results.slices.head(0), commit=None, run_id=None, overrides=[])
    )
    assert "None: every row of the test split is predicted right." in page
    assert "<h2>Slices" not in page and "MLflow" not in page
    assert "Not under git" in page and "<pre>dvc repro" in page


def test_one_text_per_row_and_one_epoch(results):
    single = replace(
        results,
        predictions=results.predictions.drop(columns="text_b"),
        epochs=results.epochs.tail(1),
        train=results.train | {"epochs": 1},
    )
    page = report.html(single)
    assert "<p>less sure</p>" in page and "<p>b2</p>" not in page
    assert "Fine-tuned for 1 epoch, 20 steps" in page


def test_short_report_has_the_rows(results):
    text = report.short(results)
    assert text.startswith("# bert-base-uncased on twins\n")
    assert "| 2 | 0.5000 | 0.5500 | 0.761 (0.712–0.803) | 0.680 |" in text
    assert "| domain | sport | 1 | 1.000 (0.300–1.000) | – | 1.000 |" in text
    assert "dvc exp run" in text and "\n\n\n" not in text


def test_equal_results_give_equal_pages(results):
    assert report.html(results) == report.html(results)
