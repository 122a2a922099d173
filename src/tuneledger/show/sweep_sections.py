"""The sentences and the tables of a sweep's page."""

from __future__ import annotations

from tuneledger.judge.compare import SIGNIFICANCE, Comparison
from tuneledger.show.sections import Cell
from tuneledger.show.sweep_figures import to_number
from tuneledger.show.sweep_results import SEED, Ranking, Savings, Setting, SweepResults, Trial, settings
from tuneledger.show.tables import ABSENT, clip, count, dollars, duration, interval, number, short_number

METRICS = {"val_loss": "validation loss", "accuracy": "accuracy", "f1": "F1"}
HEADS = {"val_loss": "Val. loss", "accuracy": "Accuracy", "f1": "F1"}
DIGITS = {"val_loss": 4, "accuracy": 3, "f1": 3}
LONGEST = 40  # characters of a value
NAMED = 3  # settings that a sentence lists

Table = tuple[list[str], list[list[Cell]]]


def title(overrides: dict[str, str]) -> str:
    """optim.lr=3e-5, loader=padded; long numbers cut to four digits."""
    return ", ".join(f"{key}={shown(value)}" for key, value in overrides.items()) or "the settings as they are"


def _lines(overrides: dict[str, str]) -> str:
    """The same with a line for each key, for a table."""
    return title(overrides).replace(", ", ",\n")


def shown(value: str) -> str:
    """A swept value, short enough for a table."""
    figure = to_number(value)
    return clip(value, LONGEST) if figure is None or len(value) <= 8 or value.isdigit() else short_number(figure)


def overview(results: SweepResults) -> str:
    """How many trials, of how many settings, how they ended, and what ranks them."""
    outcomes = [trial.outcome for trial in results.trials]
    ends = [
        f"{outcomes.count(outcome)} {'not finished' if outcome == 'unfinished' else outcome}"
        for outcome in ("finished", "pruned", "diverged", "failed", "unfinished")
        if outcome in outcomes
    ]
    if not ends:
        return "No trials."
    tried = f"{_several(len(outcomes), 'trial')} of {_several(len(settings(results.trials)), 'setting')}"
    best = f"{'lowest' if results.mode == 'min' else 'highest'} {METRICS[results.metric]}"
    return f"{tried}: {', '.join(ends)}. Ranked by {best} on the validation split."


def answer(ranking: Ranking) -> str:
    """The sweep in one line."""
    if not ranking:
        return "No trial finished"
    first = title(ranking[0][0].overrides)
    if len(ranking) == 1:
        if ranking[0][0].overrides:
            return f"Only {first} finished"
        return "Only the seed was swept" if len(ranking[0][0].finished) > 1 else "Nothing was swept"
    verdicts = _verdicts(ranking)
    ties = verdicts.count("tie")
    if ties:
        return f"{first} leads, but ties with {_several(ties, 'other')}"
    return f"{first} is best" if set(verdicts) == {"worse"} else f"{first} comes first"


def verdict(results: SweepResults, ranking: Ranking) -> str:
    """What the answer means: one or two sentences."""
    if not ranking:
        return "So there is nothing to rank. The table of trials says why each one ended."
    if len(ranking) == 1:
        return _alone(ranking[0][0], results)
    verdicts = _verdicts(ranking)
    ties = [setting.overrides for (setting, _), found in zip(ranking[1:], verdicts, strict=True) if found == "tie"]
    if ties:
        return (
            f"What was measured cannot tell it apart from {_named(ties, len(verdicts))}: the difference is no larger "
            "than chance makes it. Choose among them by something else, such as cost."
        )
    if set(verdicts) == {"worse"}:
        each = "the other setting" if len(verdicts) == 1 else f"each of the {len(verdicts)} other settings"
        return f"Its lead over {each} is larger than chance makes it."
    return f"Nothing ties with it, but not all others are worse: the ranking by {METRICS[results.metric]} says in what."


def warnings(results: SweepResults, ranking: Ranking) -> list[str]:
    """What to beware of before the winner is used."""
    if not ranking:
        return []
    best = ranking[0][0]
    found = []
    if best.mean("accuracy_low") <= results.majority_baseline:
        found.append(
            "The winner’s interval reaches down to the majority baseline: it is not shown to do better than always "
            "giving the most frequent label."
        )
    if best.thinned:
        found.append("Not every seed of the winner finished: with another seed it may end the same way.")
    if any(trial.outcome == "unfinished" for trial in results.trials):
        found.append("The sweep is not finished: the same command goes on with it, and the winner may change.")
    return found


def ranking_table(results: SweepResults, ranking: Ranking) -> Table:
    """A line for each ranked setting: how good, and how it compares to the first."""
    places = [place.against_best for _, place in ranking]
    columns: dict[str, list[Cell]] = {
        "Rank": [str(line) for line in range(1, len(ranking) + 1)],
        "Setting": [_with_seeds(setting) for setting, _ in ranking],
        "Verdict": [_against(setting, place.against_best, results) for setting, place in ranking],
    }
    for name, head in HEADS.items():
        columns[head] = [_score(setting, name, results.metric) for setting, _ in ranking]
    if any(places):
        columns["Rows won / lost"] = [(f"{p.won} / {p.lost}", _p(p.rows_p)) if p else ABSENT for p in places]
    if any(place and place.spread for place in places):
        columns["Over seeds"] = [_difference(place, results.metric) for place in places]
    return list(columns), [list(line) for line in zip(*columns.values(), strict=True)]


def finished_table(trials: list[Trial]) -> Table:
    """A line for each finished trial, in the order in which they were made."""
    header = ["Trial", "Setting", *HEADS.values(), "Steps", "Time"]
    lines: list[list[Cell]] = [
        [
            str(trial.number),
            _lines(trial.overrides),
            number(trial.scores["val_loss"], DIGITS["val_loss"]),
            (number(trial.scores["accuracy"]), interval(trial.scores["accuracy_low"], trial.scores["accuracy_high"])),
            number(trial.scores["f1"]),
            (count(trial.steps), f"{_epochs(trial)}, kept {trial.scores['best_epoch']:.0f}"),
            _time(trial),
        ]
        for trial in trials
        if trial.outcome == "finished"
    ]
    return header, lines


def ended_table(trials: list[Trial]) -> Table:
    """A line for each trial that did not finish: how it ended, and why."""
    header = ["Trial", "Setting", "Outcome", "Steps", "Time"]
    lines: list[list[Cell]] = [
        [
            str(trial.number),
            _lines(trial.overrides),
            (trial.outcome, trial.reason) if trial.reason else trial.outcome,
            (count(trial.steps), _epochs(trial)),
            _time(trial),
        ]
        for trial in trials
        if trial.outcome != "finished"
    ]
    return header, lines


def cost_rows(results: SweepResults, saved: Savings | None) -> list[list[Cell]]:
    """What the sweep took, what of it led nowhere, and what pruning left out."""
    trials = results.trials
    taken = sum(trial.steps for trial in trials)
    planned = f"of {count(results.planned_steps)} if every trial had run all its epochs"
    rows: list[list[Cell]] = [
        ["Cost", money(results)],
        ["Training and validation", (duration(sum(trial.seconds for trial in trials)), "all trials together")],
        ["Steps", (count(taken), planned) if results.planned_steps > taken else count(taken)],
    ]
    if saved:
        usd = "" if saved.usd is None else f" and {dollars(saved.usd)}"
        note = f"{saved.share:.0%} of all steps, about {duration(saved.seconds)}{usd} at each trial’s own pace"
        rows.append(["Left out by pruning", (f"{count(saved.steps)} steps", note)])
    lost = [trial for trial in trials if trial.outcome in ("diverged", "failed")]
    if lost:
        note = f"{_several(len(lost), 'trial')} that diverged or failed"
        rows.append(["Spent in vain", (duration(sum(trial.seconds for trial in lost)), note)])
    return rows


def money(results: SweepResults) -> tuple[str, str]:
    """The sum and how it comes about. A trial that broke off may have left no record of its hardware, so no price."""
    known = [trial.usd for trial in results.trials if trial.usd is not None]
    if not known:
        return ABSENT, results.price_text
    without = len(results.trials) - len(known)
    note = f"at {results.price_text}" + (f"; {_several(without, 'trial')} without a price left out" if without else "")
    return dollars(sum(known)), note


def _verdicts(ranking: Ranking) -> list[str]:
    return [place.against_best.verdict for _, place in ranking if place.against_best]


def _alone(setting: Setting, results: SweepResults) -> str:
    """Of a single setting there is the spread over its seeds to tell of."""
    scores = setting.scores(results.metric)
    if len(scores) < 2:
        return "There is nothing to compare it with."
    bounds = interval(scores.min(), scores.max(), DIGITS[results.metric])
    return (
        f"Over {len(scores)} seeds its {METRICS[results.metric]} goes from {bounds.replace('–', ' to ')}: "
        "a difference of this size between two settings may be chance."
    )


def _named(ties: list[dict[str, str]], others: int) -> str:
    """Settings by name if they are few and short, else by number."""
    if len(ties) == 1 or (len(ties) <= NAMED and all(len(overrides) == 1 for overrides in ties)):
        return " or from ".join(title(overrides) for overrides in ties)
    return f"any of the {others} others" if len(ties) == others else f"{len(ties)} of the {others} others"


def _several(amount: int, noun: str) -> str:
    return f"{amount} {noun}{'' if amount == 1 else 's'}"


def _p(p: float) -> str:
    return "p\u00a0below\u00a00.001" if p < 0.001 else f"p\u00a0{p:.3f}"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _epochs(trial: Trial) -> str:
    return _several(len(trial.epochs), "epoch")


def _time(trial: Trial) -> Cell:
    return duration(trial.seconds) if trial.usd is None else (duration(trial.seconds), dollars(trial.usd))


def _with_seeds(setting: Setting) -> Cell:
    """The setting, and how many of its seeds finished."""
    finished, planned = len(setting.finished), len({trial.overrides.get(SEED) for trial in setting.trials})
    if planned == 1:
        return _lines(setting.overrides)
    return _lines(setting.overrides), f"{finished} seeds" if finished == planned else f"{finished} of {planned} seeds"


def _score(setting: Setting, name: str, ranked_by: str) -> Cell:
    """The mean over seeds, under accuracy with its interval, else under what ranks with where the seeds lie."""
    scores, digits = setting.scores(name), DIGITS[name]
    if name == "accuracy":
        return number(scores.mean()), interval(setting.mean("accuracy_low"), setting.mean("accuracy_high"))
    if name == ranked_by and len(scores) > 1:
        return number(scores.mean(), digits), interval(scores.min(), scores.max(), digits)
    return number(scores.mean(), digits)


def _against(setting: Setting, against: Comparison | None, results: SweepResults) -> Cell:
    """The verdict, and what it rests on."""
    if against is None:
        return "best"
    if against.verdict == "tie":
        unseen = ["rows"] if against.rows_p >= SIGNIFICANCE else []
        unseen += ["seeds"] if against.spread and against.spread.p >= SIGNIFICANCE else []
        return "tie", f"by {' and '.join(unseen)}"
    if against.verdict == "mixed":
        worse = (against.difference < 0) == (results.mode == "max")
        return (
            "mixed",
            f"{'worse' if worse else 'better'} {METRICS[results.metric]}, {'more' if worse else 'fewer'} rows",
        )
    return (against.verdict, "seeds are missing") if setting.thinned else against.verdict


def _difference(against: Comparison | None, metric: str) -> Cell:
    if against is None or against.spread is None:
        return ABSENT
    spread, digits = against.spread, DIGITS[metric]
    bounds = f"{_signed(spread.low, digits)} to {_signed(spread.high, digits)}"
    return _signed(against.difference, digits), f"{bounds}, {_p(spread.p)}"
