"""Stage `tokenize`: prepared texts to token ids, once for all trainings that share tokenizer and data.

Reads data/prepared, writes data/tokenized: an Arrow file a split, the tokenizer, and meta.json with counts, the
labels and the data and tokenizer sections it was made with. Alone: `python -m tuneledger.stages.tokenize`.
"""

from __future__ import annotations

import json

from tuneledger.conf import bind, read_params
from tuneledger.paths import PREPARED, TOKENIZED, replacing, require, write_json
from tuneledger.stages import run_stage


def main() -> None:
    from tuneledger.text.tokenize import load_tokenizer, save_tokenizer, tokenize

    section = read_params("tokenizer")["tokenizer"]
    schema = json.loads(require(PREPARED / "schema.json").read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(**bind(load_tokenizer, "tokenizer", section))
    with replacing(TOKENIZED) as folder:
        save_tokenizer(tokenizer, folder / "tokenizer")
        splits = {}
        for split in schema["splits"]:
            counts = tokenize(tokenizer, PREPARED / f"{split}.parquet", folder / f"{split}.arrow")
            splits[split] = counts
            print(
                f"{split}: {counts['rows']:,} rows, {counts['tokens'] / counts['rows']:.1f} tokens a row, "
                f"longest {counts['longest']}, {counts['truncated']:,} cut at {section['max_length']}"
            )
        meta = {
            "data": schema["data"],
            "tokenizer": section,
            "text": schema["text"],
            "labels": schema["labels"],
            "splits": splits,
        }
        write_json(folder / "meta.json", meta)


if __name__ == "__main__":
    run_stage(main)
