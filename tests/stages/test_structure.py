from __future__ import annotations

import json
from pathlib import Path

import clouds
import numpy as np
import pandas as pd
import pytest
import scratch
import torch

from tuneledger.errors import UserError
from tuneledger.stages import structure as stage
from tuneledger.text.batches import TokenizedSplit

NAMES = ["1", "NA"]  # which pandas would read as a number and as nothing
ROWS = np.array([0, 3, 4, 7, 9, 12, 17, 21, 22, 25, 28, 33])
FILES = {
    "reports/structure.html",
    *(f"reports/structure/{name}" for name in ("section.html", "structure-frames.svg", "structure-scores.svg")),
    *(f"results/structure/{name}" for name in ("points.csv", "frames.csv", "summary.json")),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return scratch.tokenized(tmp_path_factory.mktemp("tokens"), train=8, validation=40)


@pytest.fixture
def project(tokens, tmp_path, monkeypatch) -> Path:
    """Real pairs, tokenized, and the record of a made-up training of three epochs on them."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/tokenized").symlink_to(tokens)
    meta = {"labels": NAMES, "splits": {"validation": {"rows": 40}}}
    Path("data/tokenized/meta.json").write_text(json.dumps(meta))
    params = {
        "seed": 1,
        "model": scratch.TINY_MODEL,
        "loader": scratch.LOADER,
        "trainer": scratch.TRAINER,
    }
    Path("params.yaml").write_text(json.dumps(params))
    record()
    return tmp_path


def record(**changes: np.ndarray) -> None:
    label, hidden, logits = clouds.clouds(NAMES, 40, 3, scratch.TINY_MODEL["architecture"]["hidden_size"])
    arrays = {"labels": label, "logits": logits[1:].astype(np.float32), "sample": ROWS}
    arrays["hidden"] = hidden[1:, ROWS].astype(np.float16)
    Path("results/train").mkdir(parents=True, exist_ok=True)
    np.savez("results/train/validation.npz", **arrays | changes)


def written(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("results/structure/*"), *folder.glob("reports/**/*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.is_file()}


def test_it_writes_its_files_and_no_others(project, capsys):
    stage.main()
    assert set(written(project)) == FILES
    frames = pd.read_csv("results/structure/frames.csv")
    first, last = frames["separability"].iloc[[0, -1]]
    assert capsys.readouterr().out == (
        f"structure: reports/structure.html; separability {first:.3f} before training, {last:.3f} at the end\n"
    )


def test_frames_are_those_of_the_untrained_model_and_of_the_record(project):
    stage.main()
    frames, points = pd.read_csv("results/structure/frames.csv"), stage.read_results(stage.RESULTS).points
    record = np.load("results/train/validation.npz")
    assert frames["epoch"].tolist() == [0, 1, 2, 3]
    assert points["epoch"].tolist() == np.repeat([0, 1, 2, 3], 12).tolist()
    assert points["row"].tolist() == ROWS.tolist() * 4
    said = np.array(NAMES)[record["logits"][:, ROWS].argmax(axis=2)]
    assert points["predicted"].tolist()[12:] == said.ravel().tolist()
    accuracy = (record["logits"][:, ROWS].argmax(axis=2) == record["labels"][ROWS]).mean(axis=1)
    np.testing.assert_allclose(frames["accuracy"][1:], accuracy, atol=1e-4)
    assert points["predicted"].iloc[0] == said_untrained(row=0)


def said_untrained(row: int) -> str:
    model = scratch.make_training(Path("data/tokenized"), seed=1)[0].model.eval()
    example = TokenizedSplit(Path("data/tokenized/validation.arrow"))[row]
    with torch.inference_mode():
        logits = model(
            **{name: torch.tensor(example[name])[None].long() for name in ("input_ids", "token_type_ids")}
        ).logits
    return NAMES[int(logits.argmax())]


def test_the_same_data_gives_the_same_bytes(project):
    stage.main()
    first = written(project)
    stage.main()
    assert written(project) == first


def test_the_page_is_made_of_the_files_alone(project):
    stage.main()
    values = stage.read_results(stage.RESULTS)
    assert stage.html(values) == Path("reports/structure.html").read_text(encoding="utf-8")
    assert set(values.points["label"]) == set(NAMES)


def test_without_the_record(project):
    Path("results/train/validation.npz").unlink()
    with pytest.raises(UserError, match=r"results/train/validation\.npz is missing: run `dvc repro`"):
        stage.main()


def test_a_record_of_other_data(project):
    record(logits=np.zeros((3, 39, 2), dtype=np.float32))
    with pytest.raises(UserError, match=r"logits of shape \(3, 39, 2\) .* split of 40 rows and 2 labels: they do not"):
        stage.main()


def test_a_model_whose_head_sees_no_single_vector(project):
    record(hidden=np.zeros((3, 12, 0), dtype=np.float16))
    with pytest.raises(UserError, match="holds no representations: the model's head does not see one vector a text"):
        stage.main()


def test_validation_rows_of_one_label(project):
    record(labels=np.ones(40, dtype=np.int64))
    with pytest.raises(UserError, match="all 12 validation rows shown have the label 'NA': nothing to separate"):
        stage.main()
    assert not Path("results/structure").exists()


def test_a_training_that_went_wrong(project):
    hidden = np.load("results/train/validation.npz")["hidden"]
    hidden[1, 5, 2] = np.inf
    record(hidden=hidden)
    with pytest.raises(UserError, match=r"after epoch 2 are NaN or infinite: train again with a lower optim\.lr"):
        stage.main()


def test_a_misspelt_key_of_the_model(project):
    params = json.loads(Path("params.yaml").read_text())
    Path("params.yaml").write_text(json.dumps(params | {"model": {**scratch.TINY_MODEL, "dropuot": 0.1}}))
    with pytest.raises(UserError, match=r"unknown key model\.dropuot: did you mean model\.dropout\?"):
        stage.main()


def test_what_changed_between_the_first_and_the_last_frame_is_counted():
    """Clouds apart at first, in one heap at the end: rows are lost, and more than by chance."""
    label, hidden, logits = clouds.clouds(["a", "b"], 60, 3)
    found = stage.structure(["a", "b"], label, np.arange(60), hidden[::-1], logits[::-1])
    summary, separability = found.summary, found.frames["separability"]
    lost = round(60 * (separability.iloc[0] - separability.iloc[-1]))
    assert summary["lost"] - summary["won"] == lost > 10
    assert summary["p"] < 0.01
    assert (summary["rows"], summary["width"], summary["folds"], summary["labels"]) == (60, 8, 10, ["a", "b"])
