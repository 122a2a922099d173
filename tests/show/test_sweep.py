from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import browser
import numpy as np
import pytest
import sweeps

from tuneledger.show import sweep_sections as sections
from tuneledger.show.sweep import axis_key, html, table, winner
from tuneledger.show.sweep_results import SweepResults, Trial, ranked, savings, settings

HOSTILE = "<script>alert(1)</script>|a`b`*c*](https://example.org)"
SWEEPS = ("rates_by_seeds", "pruned_search", "groups", "loaders", "seeds", "nothing_finished", "many")


def ranking_of(results: SweepResults) -> list[dict[str, str]]:
    """The ranking's table by column, notes left out."""
    header, lines = sections.ranking_table(results, ranked(results))
    return [dict(zip(header, (c if isinstance(c, str) else c[0] for c in line), strict=True)) for line in lines]


def answer(results: SweepResults) -> str:
    return sections.answer(ranked(results))


def verdict(results: SweepResults) -> str:
    return sections.verdict(results, ranked(results))


def warnings(results: SweepResults) -> list[str]:
    return sections.warnings(results, ranked(results))


def text(page: str) -> str:
    """What a page says, without its markup."""
    body = page[page.index("<main>") :]
    body = re.sub(r"<style>.*?</style>", "", body, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def pairs(*trials: tuple[str, str | None, float], outcome: str = "finished") -> list[Trial]:
    """Trials by learning rate, seed and accuracy."""
    return [
        sweeps.trial(
            number,
            outcome,
            accuracy=accuracy,
            overrides={"optim.lr": rate} if seed is None else {"optim.lr": rate, "seed": seed},
        )
        for number, (rate, seed, accuracy) in enumerate(trials)
    ]


def test_trials_that_differ_in_the_seed_are_one_setting():
    trials = pairs(("1e-4", "1", 0.7), ("1e-5", "1", 0.7), ("1e-4", "2", 0.7))
    found = settings(trials)
    assert [setting.overrides for setting in found] == [{"optim.lr": "1e-4"}, {"optim.lr": "1e-5"}]
    assert [[trial.number for trial in setting.trials] for setting in found] == [[0, 2], [1]]


def test_the_order_of_keys_makes_no_other_setting():
    one = sweeps.trial(0, overrides={"optim.lr": "1e-4", "loader": "padded", "seed": "1"})
    other = sweeps.trial(1, overrides={"seed": "2", "loader": "padded", "optim.lr": "1e-4"})
    assert len(settings([one, other])) == 1


def test_the_same_seed_twice_counts_once():
    trials = pairs(("1e-4", "1", 0.7), ("1e-4", "1", 0.7), ("1e-4", "2", 0.72))
    (setting,) = settings(trials)
    assert [trial.number for trial in setting.finished] == [0, 2]
    (alone,) = settings(pairs(("1e-4", None, 0.7), ("1e-4", None, 0.7)))
    assert [trial.number for trial in alone.finished] == [0]


@pytest.mark.parametrize(
    ("metric", "mode", "order"),
    [("val_loss", "min", ["1e-3", "1e-4", "1e-5"]), ("f1", "max", ["1e-3", "1e-4", "1e-5"])],
)
def test_settings_are_ranked_by_their_mean_score(metric, mode, order):
    trials = pairs(("1e-5", "1", 0.8), ("1e-5", "2", 0.6), ("1e-4", "1", 0.74), ("1e-3", "1", 0.76))
    results = sweeps.sweep(trials, metric=metric, mode=mode)
    assert [setting.overrides["optim.lr"] for setting, _ in ranked(results)] == order


def test_the_winner_is_the_best_seed_of_the_best_setting():
    results = sweeps.rates_by_seeds()
    assert winner(results) is results.trials[5]  # 3e-5 with seed 3
    better_alone = sweeps.sweep(pairs(("1e-5", "1", 0.9), ("1e-5", "2", 0.6), ("1e-4", "1", 0.8), ("1e-4", "2", 0.81)))
    assert winner(better_alone).number == 3


def test_of_equal_seeds_the_earlier_one_wins():
    assert winner(sweeps.sweep(pairs(("1e-5", "1", 0.7), ("1e-5", "2", 0.7)))).number == 0


def test_no_winner_where_nothing_finished():
    assert winner(sweeps.nothing_finished()) is None
    assert winner(sweeps.sweep([])) is None


@pytest.mark.parametrize("outcome", ["pruned", "diverged"])
def test_a_setting_that_lost_seeds_by_doing_badly_comes_last(outcome):
    lost = sweeps.trial(2, outcome, epochs=1, overrides={"optim.lr": "1e-5", "seed": "2"})
    results = sweeps.sweep([*pairs(("1e-5", "1", 0.9), ("1e-4", "1", 0.7)), lost])
    assert [line["Setting"] for line in ranking_of(results)] == ["optim.lr=1e-4", "optim.lr=1e-5"]
    assert ranking_of(results)[1]["Verdict"] == "better"
    assert "1 of 2 seeds" in table(results) and "seeds are missing" in table(results)


def test_a_seed_that_failed_for_another_reason_does_not_count_against_its_setting():
    lost = sweeps.trial(2, "failed", epochs=0, overrides={"optim.lr": "1e-5", "seed": "2"})
    results = sweeps.sweep([*pairs(("1e-5", "1", 0.9), ("1e-4", "1", 0.7)), lost])
    assert ranking_of(results)[0]["Setting"] == "optim.lr=1e-5"
    assert not warnings(results)


def test_savings_by_hand():
    whole = sweeps.trial(0, epochs=4, steps=400, seconds=100.0, usd=4.0)
    half = sweeps.trial(1, "pruned", epochs=2, steps=200, seconds=60.0, usd=2.0)
    quarter = sweeps.trial(2, "pruned", epochs=1, steps=100, seconds=20.0, usd=1.0)
    diverged = sweeps.trial(3, "diverged", epochs=1, steps=130, seconds=30.0, usd=1.0)
    saved = savings([whole, half, quarter, diverged])
    assert saved.steps == 200 + 300
    assert saved.share == pytest.approx(500 / (400 + 200 + 100 + 130 + 500))
    assert saved.seconds == pytest.approx(60 + 3 * 20)
    assert saved.usd == pytest.approx(2 + 3 * 1)


def test_savings_are_measured_against_what_finished():
    finished, pruned = sweeps.trial(0, epochs=2), sweeps.trial(1, "pruned", epochs=1)
    assert savings([finished]) is None
    assert savings([pruned]) is None
    assert savings([finished, sweeps.trial(1, "pruned", epochs=2)]) is None
    assert savings([finished, replace(pruned, usd=None)]).usd is None


def test_what_pruning_saved_stands_on_the_page():
    results = sweeps.pruned_search()
    saved = savings(results.trials)
    assert f"Left out by pruning {saved.share:.0%} of the steps" in text(html(results))
    assert "Left out by pruning" in table(results)
    assert "Left out by pruning" not in table(sweeps.rates_by_seeds()) + html(sweeps.rates_by_seeds())


def test_the_tie_rule_over_seeds():
    lines = ranking_of(sweeps.rates_by_seeds())
    assert [(line["Setting"], line["Verdict"]) for line in lines] == [
        ("optim.lr=3e-5", "best"),
        ("optim.lr=1e-4", "tie"),
        ("optim.lr=1e-3", "worse"),
        ("optim.lr=1e-5", "worse"),
    ]
    assert "tie (by rows and seeds)" in table(sweeps.rates_by_seeds())


def test_seed_noise_makes_a_tie():
    quiet = sweeps.sweep(pairs(("1e-5", "1", 0.6), ("1e-5", "2", 0.61), ("1e-4", "1", 0.8), ("1e-4", "2", 0.81)))
    noisy = sweeps.sweep(pairs(("1e-5", "1", 0.45), ("1e-5", "2", 0.76), ("1e-4", "1", 0.7), ("1e-4", "2", 0.91)))
    assert ranking_of(quiet)[1]["Verdict"] == "worse"
    assert ranking_of(noisy)[1]["Verdict"] == "tie"
    assert "tie (by seeds)" in table(noisy)


def test_the_ranking_has_columns_only_for_what_was_tested():
    assert list(ranking_of(sweeps.groups())[0]) == [
        "Rank", "Setting", "Verdict", "Val. loss", "Accuracy", "F1", "Rows won / lost",
    ]  # fmt: skip
    assert list(ranking_of(sweeps.rates_by_seeds())[0])[-1] == "Over seeds"
    assert "Rows won / lost" not in ranking_of(sweeps.seeds())[0]


def test_a_line_of_the_ranking_by_hand():
    correct = np.arange(100) < 80
    first = sweeps.trial(0, correct=correct, val_loss=0.3)
    other = sweeps.trial(1, correct=np.roll(correct, 5), val_loss=0.35)
    line = sections.ranking_table(sweeps.sweep([first, other]), ranked(sweeps.sweep([first, other])))[1][1]
    accuracy = other.scores["accuracy"], other.scores["accuracy_low"], other.scores["accuracy_high"]
    assert line == [
        "2",
        "optim.lr=2e-5",
        ("tie", "by rows"),
        "0.3500",
        (f"{accuracy[0]:.3f}", f"{accuracy[1]:.3f}–{accuracy[2]:.3f}"),
        f"{accuracy[0] - 0.1:.3f}",
        ("5 / 5", "p\u00a01.000"),
    ]


@pytest.mark.parametrize(
    ("metric", "mode", "second", "note"),
    [
        ("val_loss", "min", {"val_loss": 0.4, "accuracy": 0.9}, "worse validation loss, more rows"),
        ("f1", "max", {"val_loss": 0.3, "accuracy": 0.9, "f1": 0.5}, "worse F1, more rows"),
    ],
)
def test_where_score_and_rows_point_apart_the_verdict_is_mixed(metric, mode, second, note):
    f1 = second.pop("f1", None)
    first, other = sweeps.trial(0, accuracy=0.7, val_loss=0.3), sweeps.trial(1, **second)
    if f1:
        other = replace(other, scores={**other.scores, "f1": f1})
    results = sweeps.sweep([first, other], metric=metric, mode=mode)
    against = sections.ranking_table(results, ranked(results))[1][1][2]
    assert against == ("mixed", note)
    assert answer(results) == "optim.lr=1e-5 comes first"
    assert verdict(results).startswith("Nothing ties with it, but not all others are worse")


@pytest.mark.parametrize(
    ("results", "said", "why"),
    [
        (sweeps.rates_by_seeds(), "optim.lr=3e-5 leads, but ties with 1 other", "apart from optim.lr=1e-4: the"),
        (sweeps.pruned_search(), "optim.lr=1.96e-4 leads, but ties with 4 others", "apart from any of the 4 others:"),
        (sweeps.groups(), "loader=grouped, optim.lr=3e-4 leads, but ties with 3 others", "any of the 3 others"),
        (
            sweeps.sweep(pairs(("1", None, 0.9), ("2", None, 0.5))),
            "optim.lr=1 is best",
            "Its lead over the other setting",
        ),
        (
            sweeps.sweep(pairs(("1", None, 0.9), ("2", None, 0.5), ("3", None, 0.4))),
            "optim.lr=1 is best",
            "Its lead over each of the 2 other settings",
        ),
        (sweeps.sweep([sweeps.trial(0)]), "Only optim.lr=1e-5 finished", "There is nothing to compare it with."),
        (sweeps.sweep([sweeps.trial(0, overrides={})]), "Nothing was swept", "There is nothing to compare it with."),
        (sweeps.seeds(), "Only the seed was swept", "Over 4 seeds its validation loss goes from 0.3300 to 0.3600"),
        (sweeps.nothing_finished(), "No trial finished", "why each one ended"),
        (sweeps.sweep([]), "No trial finished", "nothing to rank"),
    ],
)
def test_answer_and_verdict(results, said, why):
    assert answer(results) == said
    assert why in verdict(results)


def test_ties_are_named_only_if_that_stays_short():
    three = sweeps.sweep([sweeps.trial(n, accuracy=0.75) for n in range(3)])
    assert "apart from optim.lr=2e-5 or from optim.lr=3e-5: the" in verdict(three)
    five = sweeps.sweep([sweeps.trial(n, accuracy=0.75 if n < 5 else 0.3) for n in range(6)])
    assert "apart from 4 of the 5 others" in verdict(five)


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (sweeps.sweep([sweeps.trial(0, accuracy=0.66)]), "reaches down to the majority baseline"),
        (
            sweeps.sweep(
                [*pairs(("1", "1", 0.8)), sweeps.trial(1, "pruned", overrides={"optim.lr": "1", "seed": "2"})]
            ),
            "Not every seed of the winner finished",
        ),
        (sweeps.sweep([sweeps.trial(0), sweeps.trial(1, "unfinished", epochs=1)]), "The sweep is not finished"),
    ],
)
def test_warnings(results, words):
    (warning,) = warnings(results)
    assert words in warning
    assert warning in text(html(results)) and warning in table(results)


def test_nothing_to_warn_of():
    assert warnings(sweeps.rates_by_seeds()) == warnings(sweeps.nothing_finished()) == []


def test_the_answer_comes_before_the_evidence():
    said = text(html(sweeps.rates_by_seeds()))
    parts = [
        "optim.lr=3e-5 leads, but ties with 1 other",
        "12 trials of 4 settings: 12 finished. Ranked by lowest validation loss on the validation split.",
        "Accuracy, validation, mean of 3 seeds 0.800 95 % interval 0.751–0.841",
        "What was measured cannot tell it apart from optim.lr=1e-4",
        "trial 5 (optim.lr=3e-5, seed=3)",
        "python -m tuneledger.sweep.promote multirun/2026-11-24/03-10-11",
        "Score against learning rate",
        "Every trial’s curve",
        "A setting ties with the best unless",
        "3 epochs, kept 3",
        "all trials together",
        "python -m tuneledger.stages.train --multirun",
    ]
    places = [said.find(part) for part in parts]
    assert -1 not in places and places == sorted(places)


def test_trials_that_did_not_finish_stand_with_their_reasons():
    results = sweeps.pruned_search()
    header, lines = sections.ended_table(results.trials)
    assert header[:3] == ["Trial", "Setting", "Outcome"]
    assert [line[0] for line in lines] == ["0", "1", "3", "4", "7", "8", "11"]
    for said in (text(html(results)), table(results)):
        for trial in results.trials:
            assert (trial.reason in said) or not trial.reason
    assert "2 diverged, 1 failed." in text(html(results))


def test_a_sweep_in_which_nothing_finished():
    results = sweeps.nothing_finished()
    said = text(html(results))
    assert "4 trials of 4 settings: 2 diverged, 1 failed, 1 not finished." in said
    assert "Use the winner" not in said and "Ranking" not in said and "nan" not in said
    assert "train.tsv:17:3: this row has 2 columns, not 3" in said
    assert "promote" not in said + table(results)


def test_a_sweep_without_trials():
    assert "No trials." in text(html(sweeps.sweep([]))) and "No trials." in table(sweeps.sweep([]))


def test_one_trial_only():
    said = text(html(sweeps.sweep([sweeps.trial(0)])))
    assert "1 trial of 1 setting: 1 finished." in said
    assert "Ranking" not in said  # it would say what the table of trials says


def test_seeds_only():
    said = text(html(sweeps.seeds()))
    assert "Score against seed" in said and "the settings as they are" in said and "McNemar" not in said


def test_long_tables_are_folded():
    page = html(sweeps.many())
    assert page.count("<summary>40 more</summary>") == 2
    assert page.count('class="best"') == 2  # the winner is marked in each of the two tables, once


def test_the_winner_is_marked_wherever_it_stands():
    trials = [sweeps.trial(n, accuracy=0.7 + 0.005 * n) for n in range(25)]
    tail = html(sweeps.sweep(trials)).partition("<h2>Trials</h2>")[2]
    assert re.findall(r'<tr class="best"><td>(\d+)</td>', tail) == ["24"]


def test_the_price_of_trials_without_one_is_not_made_up():
    priced = sweeps.sweep([sweeps.trial(0, usd=1.5), sweeps.trial(1, usd=2.25)])
    assert sections.money(priced) == ("$3.75", "at $1.2 an hour, a price list, as of 2026-11-01")
    partly = sweeps.sweep([sweeps.trial(0, usd=1.5), sweeps.trial(1, "diverged", usd=None)])
    assert sections.money(partly)[0] == "$1.50" and "1 trial without a price left out" in sections.money(partly)[1]
    none = sweeps.groups()
    assert sections.money(none) == ("–", "no price for this hardware: set cost.usd_per_hour")
    assert "$" not in text(html(none))


def test_cost_by_hand():
    trials = [
        sweeps.trial(0, epochs=2, steps=200, seconds=50.0, usd=0.5),
        sweeps.trial(1, "pruned", epochs=1, steps=100, seconds=25.0, usd=0.25),
        sweeps.trial(2, "failed", epochs=0, seconds=5.0, usd=0.05),
    ]
    results = sweeps.sweep(trials, planned_steps=600)
    assert sections.cost_rows(results, savings(trials)) == [
        ["Cost", ("$0.80", "at $1.2 an hour, a price list, as of 2026-11-01")],
        ["Training and validation", ("1 min 20 s", "all trials together")],
        ["Steps", ("300", "of 600 if every trial had run all its epochs")],
        ["Left out by pruning", ("100 steps", "25% of all steps, about 25.0 s and $0.25 at each trial’s own pace")],
        ["Spent in vain", ("5.0 s", "1 trial that diverged or failed")],
    ]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"optim.lr": "3e-5"}, "optim.lr=3e-5"),
        ({"optim.lr": "0.00019604178882748376"}, "optim.lr=1.96e-4"),
        ({"optim.lr": "3e-4", "loader": "padded"}, "optim.lr=3e-4, loader=padded"),
        ({"data.path": "x" * 60}, f"data.path={'x' * 39}…"),
        ({"trainer.max_steps": "1234567890"}, "trainer.max_steps=1234567890"),
        ({}, "the settings as they are"),
    ],
)
def test_title(overrides, expected):
    assert sections.title(overrides) == expected


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"loader": ["a", "b"], "optim.lr": ["1", "2"], "seed": ["1", "2"]}, "optim.lr"),
        ({"seed": ["1", "2"], "loader": ["a", "b"]}, "loader"),
        ({"optim.lr": ["1", "1"], "loader": ["a", "b"]}, "loader"),
        ({"seed": ["1", "2"]}, "seed"),
        ({"optim.lr": ["1", "1"]}, None),
    ],
)
def test_scores_are_drawn_against_the_learning_rate_if_it_was_swept(values, key):
    lines = [dict(zip(values, line, strict=True)) for line in zip(*values.values(), strict=True)]
    assert axis_key([sweeps.trial(n, overrides=line) for n, line in enumerate(lines)]) == key


def hostile() -> SweepResults:
    trials = [sweeps.trial(n, overrides={"data.path": HOSTILE, "loader": name}) for n, name in enumerate("ab")]
    failed = sweeps.trial(2, "failed", epochs=0, overrides={"data.path": HOSTILE, "loader": "c"}, reason=HOSTILE)
    return sweeps.sweep([*trials, failed], name=HOSTILE, command=HOSTILE, promote=HOSTILE)


def test_texts_are_escaped():
    page = html(hostile())
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert browser.references(page) == []


def test_texts_are_escaped_in_markdown():
    lines = table(hostile()).splitlines()
    outside = [line for line in lines if not line.startswith("    ")]
    assert any("script" in line for line in outside)
    for line in outside:
        assert not re.search(r"(?<!\\)(<|`|\*)", line), line
    ranking = [line for line in outside if line.startswith("| ")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in ranking}
    assert widths <= {8, 6, 3}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_page_opens_offline_and_is_light(name):
    page = html(getattr(sweeps, name)())
    assert browser.references(page) == []
    assert "http" not in page and "<script" not in page
    assert len(page.encode()) < 300_000
    assert re.findall(r"\bid=\"([^\"]+)\"", page) == list(dict.fromkeys(re.findall(r"\bid=\"([^\"]+)\"", page)))
    assert not re.search(r"\b(nan|None|inf)\b", text(page))


@pytest.mark.parametrize("name", ["rates_by_seeds", "pruned_search"])
def test_equal_input_gives_equal_bytes(name):
    make = getattr(sweeps, name)
    assert html(make()) == html(make()) and table(make()) == table(make())
