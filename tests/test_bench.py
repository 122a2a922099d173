"""The arithmetic of the side-by-side harness; it measures nothing here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from types import ModuleType

import numpy as np
import pytest
import scratch

from tuneledger.conf import compose
from tuneledger.errors import UserError


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    monkeypatch.syspath_prepend(scratch.ROOT / "bench")


@pytest.fixture
def table() -> ModuleType:
    import table

    return table


@pytest.fixture
def headline() -> ModuleType:
    import headline

    return headline


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["closed", "--contestants", "open"], r"^--contestants open: not in this division"),
        (["open", "--contestants", "as_written", "ours"], r"^--contestants ours: not in this division"),
        (["open", "--steps", "100"], r"^--steps compares steps"),
        (["closed", "--steps", "5"], r"^--steps 5: give 22 to 458"),
    ],
)
def test_divisions_are_never_mixed(headline, monkeypatch, arguments, message):
    monkeypatch.setattr("sys.argv", ["headline.py", *arguments])
    with pytest.raises(UserError, match=message):
        headline.main()


def test_contestants_take_turns_in_both_directions(headline):
    order = list(headline.schedule(["a", "b", "c"], [1, 2, 3]))
    assert [name for name, _ in order] == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]
    assert [seed for _, seed in order] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_steps_time_is_the_median_after_the_warm_up(table):
    ends = np.cumsum([5.0] * table.WARMUP + [0.1] * 60 + [0.2] * 40 + [90.0])
    figures = table.step_figures(ends.tolist())
    assert figures["ms_per_step"] == pytest.approx(100)
    assert figures["ms_per_step_quartiles"] == pytest.approx([100, 200])


def test_summaries(table):
    assert table.summary([4.0, 1.0, 2.0, 10.0]) == (3.0, 1.0, 10.0, 3.0)
    assert table.summary([4.0, 1.0]) == (2.5, 1.0, 4.0, None)


def test_a_ratio_of_paired_seeds_has_an_interval_that_covers_it(table):
    slow = {seed: 600.0 + 20 * seed for seed in range(1, 6)}
    fast = {seed: 100.0 + seed for seed in range(1, 6)}
    value, low, high = table.paired(table.ratio_of_medians, slow, fast)
    assert value == pytest.approx(660 / 103)
    assert low < value < high
    assert low >= 620 / 101 and high <= 700 / 105
    alone = table.paired(table.ratio_of_medians, {1: 600.0}, {1: 100.0})
    assert alone == (6.0, 6.0, 6.0)


def test_seeds_are_drawn_in_pairs(table):
    """With a constant ratio the interval has no width, however far apart the seeds lie."""
    slow = {seed: 300.0 * seed for seed in range(1, 6)}
    fast = {seed: 100.0 * seed for seed in range(1, 6)}
    assert table.paired(table.ratio_of_medians, slow, fast) == pytest.approx((3, 3, 3))


def test_a_score_lies_below_inside_or_above_a_range(table):
    places = [table.position(value, [0.85, 0.75]) for value in (0.7, 0.75, 0.8, 0.85, 0.9)]
    assert places == ["below", "inside", "inside", "inside", "above"]


class TestRunsThatCannotBeCompared:
    def run(self, **changes) -> dict:
        same = {"labels_sha256": "a", "order_labels_sha256": "a", "weights_sha256": "w", "seed": 1}
        return {"contestant": "ours", **same, **changes}

    def test_with_equal_weights_and_batches_they_can(self, headline):
        headline.check_runs([self.run(), self.run(contestant="as_written"), self.run(seed=2, weights_sha256="x")])

    def test_other_batches_are_for_those_that_have_their_own(self, headline):
        headline.check_runs([self.run(contestant="tuned", labels_sha256="b")])
        with pytest.raises(UserError, match=r"ours seed 1 trained on other batches"):
            headline.check_runs([self.run(labels_sha256="b")])

    def test_other_weights(self, headline):
        with pytest.raises(UserError, match=r"tuned seed 1 began with other weights than ours"):
            headline.check_runs([self.run(), self.run(contestant="tuned", weights_sha256="x")])

    def test_another_head_has_other_weights(self, headline):
        headline.check_runs([self.run(contestant="open", weights_sha256="x", labels_sha256="b"), self.run()])


class TestTimeToAnF1:
    def run(self, contestant: str, seed: int, *f1s: float, epoch_seconds: float) -> dict:
        times = (epoch_seconds * (index + 1) for index in range(len(f1s)))
        epochs = [{"accuracy": 0.7, "f1": f1, "since_start": time} for f1, time in zip(f1s, times, strict=True)]
        whole = {"metrics_seconds": epoch_seconds * len(f1s) + 10}
        return {"contestant": contestant, "seed": seed, "epochs": epochs, **whole}

    def test_it_is_that_of_the_first_evaluation_which_reaches_it(self, table):
        run = self.run("open", 1, 0.80, 0.86, 0.84, epoch_seconds=10.0)
        assert table.seconds_to(run, 0.85) == 20.0
        assert table.seconds_to(run, 0.87) == float("inf")

    def test_the_target_is_the_median_with_which_the_lecture_ends(self, table):
        """One seed gets there an epoch earlier, one never; so does one of the open runs."""
        lecture = ((0.80, 0.86, 0.84), (0.80, 0.85, 0.86), (0.80, 0.82, 0.85))
        runs = [self.run("as_written", n, *f1s, epoch_seconds=100.0) for n, f1s in enumerate(lecture)]
        runs += [self.run("open", n, 0.84, 0.86 if n else 0.83, epoch_seconds=10.0) for n in range(3)]
        assert table.target(runs) == 0.85
        lines = table.recipe_table(runs).replace(table.ABSENT, "-").splitlines()
        assert "| as_written | 3 | 0.7000 | 0.8500 | 3 of 3 | 200.0 | - |" in lines
        assert (
            "| open | 3 | 0.7000 | 0.8600 | 2 of 3 | 20.0 | 15.50 [0.00, 15.50] |" in lines
        )  # if the first is drawn twice

    def test_of_two_in_the_middle_the_lower_counts(self, table):
        runs = [self.run("as_written", n, 0.80 + 0.02 * n, epoch_seconds=100.0 + n) for n in range(4)]
        assert table.target(runs) == pytest.approx(0.82)
        assert "| as_written | 4 | 0.7000 | 0.8300 | 3 of 4 | 102.0 |" in table.recipe_table(runs)

    def test_a_contestant_that_mostly_fails_has_no_time(self, table):
        runs = [self.run("as_written", n, 0.85, epoch_seconds=100.0) for n in range(3)]
        runs += [self.run("open", n, 0.84 + 0.01 * (n == 0), epoch_seconds=10.0) for n in range(3)]
        lines = table.recipe_table(runs).replace(table.ABSENT, "-")
        assert "| open | 3 | 0.7000 | 0.8400 | 1 of 3 | - | - |" in lines

    def test_without_the_lectures_runs_there_are_scores_alone(self, table):
        lines = table.recipe_table([self.run("open", 1, 0.9, epoch_seconds=10.0)]).replace(table.ABSENT, "-")
        assert "| open | 1 | 0.7000 | 0.9000 | - | - | - |" in lines


FACTS = {
    **{"versions": {"torch": "2"}, "compiled_kernels": True, "commits": ["c"], "command": "x"},
    **{"cpu": "a processor", "cores": 2, "python": "3", "division": "closed"},
    "always_one_label": [{"accuracy": 0.684, "f1": 0.812}],
}


class TestPage:
    def run(self, contestant: str, **changes) -> dict:
        epochs = [{"accuracy": 0.8, "f1": 0.86, "loss": 0.4, "since_start": 70.0}]
        clocks = {"ms_per_step": 100.0, "loop_seconds": 60.0, "metrics_seconds": 72.0, "exit_seconds": 75.0}
        rest = {"epochs": epochs, "disturbed": False, "started": 1}
        return {"contestant": contestant, "seed": 1, **rest, **clocks, **changes}

    def test_of_the_closed_division_it_has_every_clock(self, table):
        page = table.page([self.run("as_written", ms_per_step=500.0), self.run("ours")], FACTS)
        assert page.startswith("# all-MiniLM-L6-v2 on MRPC, closed division")
        assert all(f"## {title}" in page for title in table.CLOCKS.values())
        assert "| ours | the same | 1 | 100.0 | 100.0 | 100.0 | - | 5.00 |" in page.replace(table.ABSENT, "-")
        assert "| ours | 10.0 | 60.0 | 2.0 | 3.0 | 20.0 |" in page
        assert "Time to the F1" not in page
        assert "Nothing else ran beside them." in page and "Collapsed" not in page

    def test_of_the_open_division_it_has_the_time_to_an_f1_and_no_steps(self, table):
        page = table.page([self.run("as_written"), self.run("open")], FACTS | {"division": "open"})
        assert page.startswith("# all-MiniLM-L6-v2 on MRPC, open division")
        _, first, others = page.split("\n## ", 2)
        assert "| open | 1 | 0.8000 | 0.8600 | 1 of 1 | 70.0 | 1.03 |" in first
        assert "Process start to metrics on disk" in others and "Steady step" not in others

    def test_of_the_short_mode_it_has_step_times_alone(self, table):
        page = table.page([self.run("ours", epochs=[])], FACTS)
        assert "Steady step" in page
        assert page.count("## ") == 1 and "Scores" not in page

    def test_it_counts_the_runs_on_either_side_of_the_lectures_range(self, table):
        def scored(contestant: str, seed: int, accuracy: float) -> dict:
            epochs = [{"accuracy": accuracy, "f1": 0.86, "loss": 0.4, "since_start": 70.0}]
            return self.run(contestant, seed=seed, epochs=epochs)

        runs = [scored("as_written", seed, accuracy) for seed, accuracy in enumerate((0.78, 0.8, 0.79))]
        runs += [scored("ours", seed, accuracy) for seed, accuracy in enumerate((0.77, 0.82, 0.81))]
        lines = [line for line in table.page(runs, FACTS).splitlines() if line.startswith("| accuracy | ours ")]
        assert len(lines) == 1 and lines[0].endswith("| 1 / 0 / 2 | above |")

    def test_it_says_in_which_order_runs_were_made(self, table):
        page = table.page([self.run("ours", started=2), self.run("as_written", started=1)], FACTS)
        assert "Made in this order: as_written seed 1, ours seed 1." in page

    def test_it_says_what_disturbed_or_collapsed(self, table):
        constant = [{"accuracy": 0.684, "f1": 0.812, "loss": 0.6, "since_start": 70.0}]
        page = table.page([self.run("ours", epochs=constant), self.run("tuned", disturbed=True)], FACTS)
        assert "**Collapsed, answers always the same: ours seed 1.**" in page
        assert "**Something else ran beside tuned seed 1.**" in page


class TestAblation:
    @pytest.fixture
    def ablation(self) -> ModuleType:
        import ablation

        return ablation

    @pytest.mark.parametrize("judged_on", ["held_out", "dev"])
    def test_every_variant_can_be_composed_and_is_another_one(self, ablation, judged_on):
        composed = [compose(ablation.Job(variant, judged_on, 3).settings) for variant in ablation.VARIANTS]
        assert len({repr(config) for config in composed}) == len(ablation.VARIANTS)
        assert {config["data"]["split_seed"] for config in composed} == {3 if judged_on == "held_out" else 1}
        assert {config["seed"] for config in composed} == {3}

    def runs(self, ablation, variant: str) -> list[dict]:
        made_by = {"cpu": "a processor", "versions": "torch 2", "commit": "c", "data_sha256": {"train.tsv": "a"}}
        jobs = [ablation.Job(variant, where, seed) for where in ablation.JUDGED_ON for seed in (1, 2, 3)]
        scores = {1: 0.7, 2: 0.75, 3: 0.86}
        return [
            {**job._asdict(), "settings": job.settings, "config_sha256": job.config_sha256(), **made_by}
            | {"epochs": [{"accuracy": 0.1, "f1": 0.1}, {"accuracy": scores[job.seed], "f1": scores[job.seed] + 0.05}]}
            for job in jobs
        ]

    def test_the_page_has_means_of_held_out_rows_and_medians_of_dev(self, ablation, table):
        variant = list(ablation.VARIANTS)[1]
        page = ablation.page(self.runs(ablation, variant), "python bench/ablation.py", 0.684).replace(table.ABSENT, "-")
        scores = "| 3 | 0.7700 | 0.8200 | 0.700 to 0.860 | - | 3 | 0.7500 | 0.8000 | 0.700 to 0.860 | - |"
        assert f"| {variant} {scores}" in page
        assert "always answering 1 scores 0.684" in page
        assert page.count("| 0 |") == 2 * (len(ablation.VARIANTS) - 1)

    def test_a_gain_is_over_the_variant_beside_it_on_seeds_both_have(self, ablation, table):
        bare, with_head = list(ablation.VARIANTS)[1:3]
        assert ablation.VARIANTS[with_head].beside == bare
        more = [
            run | {"epochs": [{"accuracy": run["epochs"][-1]["accuracy"] + 0.02, "f1": 0.9}]}
            for run in self.runs(ablation, with_head)
            if run["seed"] != 3
        ]
        runs = self.runs(ablation, bare) + more
        assert ablation.gain(runs, with_head, "dev") == "0.0200"
        runs[-1]["epochs"][-1]["accuracy"] += 0.02
        assert ablation.gain(runs, with_head, "dev") == "0.0300"  # of two seeds there is no interval to speak of
        third = runs[-1] | {"seed": 3, "epochs": [{"accuracy": 0.86 + 0.03, "f1": 0.9}]}
        runs.append(third)
        value, low, high = map(float, re.findall(r"[\d.]+", ablation.gain(runs, with_head, "dev")))
        assert (low, value, high) == (0.0052, 0.03, 0.0548)  # 0.02, 0.04, 0.03: 4.303 standard errors of 0.01 / √3
        assert ablation.gain(runs, bare, "dev") == table.ABSENT

    def test_every_variant_but_the_first_has_one_beside_it(self, ablation):
        first, *others = ablation.VARIANTS.values()
        assert first.beside is None and all(other.beside in ablation.VARIANTS for other in others)

    def test_runs_are_kept_while_their_settings_and_data_are_todays(self, ablation, monkeypatch):
        variant = list(ablation.VARIANTS)[1]
        runs = self.runs(ablation, variant)
        assert ablation.still_wanted(runs, {"train.tsv": "a"}) == runs
        assert ablation.still_wanted(runs, {"train.tsv": "b"}) == []
        monkeypatch.setattr(ablation, "HELD_OUT", (*ablation.HELD_OUT, "data.validation_fraction=0.3"))
        assert [run["judged_on"] for run in ablation.still_wanted(runs, {"train.tsv": "a"})] == ["dev"] * 3
        monkeypatch.setitem(
            ablation.VARIANTS, variant, ablation.Variant((*ablation.PLAIN, "cost.usd_per_hour=9"), None)
        )
        assert len(ablation.still_wanted(runs, {"train.tsv": "a"})) == 3  # a price changes no score
        monkeypatch.setitem(ablation.VARIANTS, variant, ablation.Variant(("optim.lr=1",), None))
        assert ablation.still_wanted(runs, {"train.tsv": "a"}) == []

    def test_what_is_finished_is_kept_when_another_run_fails(self, ablation, monkeypatch, tmp_path):
        """And the same command makes those that are missing."""
        failing = [True]

        def train(work, job):
            if job.seed == 1 and failing[0]:
                raise UserError("broken")
            known = {"settings": job.settings, "config_sha256": job.config_sha256()}
            return {**job._asdict(), **known, "epochs": [{"accuracy": 0.5, "f1": 0.6}]}

        made = []
        monkeypatch.setattr(ablation, "VARIANTS", dict(list(ablation.VARIANTS.items())[:3]))
        monkeypatch.setattr(ablation, "train", train)
        monkeypatch.setattr(ablation, "make_project", lambda project, *_: (project.mkdir(), made.append(project.name)))
        monkeypatch.setattr(ablation, "mrpc_digests", lambda folder: {})
        monkeypatch.setattr(ablation, "majority_share", lambda folder: 0.684)
        monkeypatch.setattr(ablation, "RESULTS", tmp_path / "ablation.json")
        monkeypatch.setattr(ablation, "WORK", tmp_path)
        monkeypatch.setattr(ablation, "TOGETHER", 1)
        monkeypatch.setattr("sys.argv", ["ablation.py", "--judged-on", "dev", "--seeds", "2", "1", "2"])
        with pytest.raises(UserError, match="broken"):
            ablation.main()
        runs = json.loads((tmp_path / "ablation.json").read_text())
        assert {run["seed"] for run in runs} == {2} and len(runs) == len(ablation.VARIANTS)
        failing[0] = False
        ablation.main()
        assert len(json.loads((tmp_path / "ablation.json").read_text())) == 2 * len(ablation.VARIANTS)
        assert len(made) == 1
        assert "| 2 | 0.5000 | 0.6000 | 0.500 to 0.500 |" in (tmp_path / "ablation.md").read_text()

        variant = next(iter(ablation.VARIANTS))
        arguments = ["--anew", "--judged-on", "dev", "--seeds", "2", "--variants", variant]
        monkeypatch.setattr("sys.argv", ["ablation.py", *arguments])
        monkeypatch.setattr(ablation, "train", lambda work, job: train(work, job) | {"anew": True})
        ablation.main()
        runs = json.loads((tmp_path / "ablation.json").read_text())
        assert len(runs) == 2 * len(ablation.VARIANTS)
        assert [(run["variant"], run["seed"]) for run in runs if "anew" in run] == [(variant, 2)]


def test_sigterm_ends_what_a_thread_of_the_harness_runs():
    program = (
        "import subprocess, sys, threading, time\n"
        "from machine import end_with_children\n"
        "from tuneledger.errors import exit_code\n"
        "def main():\n"
        "    child = subprocess.Popen(['sleep', '100'], stdout=subprocess.DEVNULL)\n"
        "    threading.Thread(target=child.wait).start()\n"
        "    print(child.pid, flush=True)\n"
        "    time.sleep(100)\n"
        "end_with_children()\n"
        "sys.exit(exit_code(main))\n"
    )
    path = os.pathsep.join(str(scratch.ROOT / name) for name in ("bench", "src"))
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=scratch.environment(PYTHONPATH=path), stdout=subprocess.PIPE) as harness:
        child = int(harness.stdout.readline())
        start = time.monotonic()
        harness.terminate()
        assert harness.wait(timeout=60) == 128 + signal.SIGTERM
    assert time.monotonic() - start < 60
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.fixture
def rows() -> ModuleType:
    import rows

    return rows


def test_generated_rows_are_pairs_that_do_not_recur(rows, tmp_path):
    rows.generate(tmp_path, 500)
    lines = (tmp_path / "train.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines[1:]]
    assert lines[0] == "sentence1\tsentence2\tlabel" and len(pairs) == 500
    assert len({sentence for first, second, _ in pairs for sentence in (first, second)}) > 950
    assert len((tmp_path / "validation.tsv").read_text(encoding="utf-8").splitlines()) == rows.VALIDATION + 1


def test_every_task_does_its_work_and_the_tokens_are_the_same(rows, tmp_path):
    """In this process, where imports are paid for."""
    import row_tasks

    rows.generate(tmp_path, 300)
    scratch_folder = tmp_path / "scratch"
    scratch_folder.mkdir()
    clock = row_tasks.Clock()
    assert row_tasks.prepare(tmp_path, scratch_folder, clock)() is None
    assert 0 < clock.seconds < 60
    (scratch_folder / "train.parquet").rename(tmp_path / "train.parquet")
    tasks = [row_tasks.TASKS[task] for task in ("tokenize", "datasets.map")]
    digests = [task(tmp_path, scratch_folder, row_tasks.Clock())() for task in tasks]
    assert digests[0] == digests[1] != row_tasks.digest([])
    with row_tasks.Watch() as watch:
        held = b"x" * 100_000_000
        time.sleep(0.1)
    assert len(held) < watch.largest * 1024 <= row_tasks.resident("VmHWM") * 1024


def test_a_table_of_rows_has_the_median_and_the_largest_memory(rows):
    runs = [
        {"task": task, "rows": 1000, "seconds": seconds, "own_gib": peak / 2, "peak_gib": peak, "tokens_sha256": None}
        for task in rows.TASKS
        for seconds, peak in ((1.0, 0.3), (4.0, 0.2), (2.0, 0.25))
    ]
    facts = {"cpu": "a processor", "cores": 2, "python": "3", "versions": {}, "commit": "c", "command": "x"}
    assert "| tokenize | 1,000 | 2.00 | 1.00 to 4.00 | 500 | 0.15 | 0.30 |" in rows.page(runs, facts)
