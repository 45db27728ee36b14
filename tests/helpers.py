"""What several tests share."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow.dataset as pads

from pipeline.lake.store.own import own_address

# Only what hangs takes so long, also on a machine that does ten other things.
PATIENCE = 400.0

CLASSIFY = {"kind": "classify", "model": "starter/sentiment"}
NER = {"kind": "ner", "model": "starter/pii"}
GIST = {
    "kind": "summarize",
    "model": "starter/minilm",
    "method": "extractive",
    "sentences": 2,
}


def wait_for(condition: Callable[[], object], *, what: object = "") -> None:
    """Returns when a condition holds; `what` says, or gives, what was waited for in vain."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, (
            f"waited {PATIENCE:.0f} s: {what() if callable(what) else what}"
        )
        time.sleep(0.02)


# Slow to import: only what computes may need them, so that all else answers at once.
HEAVY = {"torch", "transformers", "ray", "datasets", "onnxruntime"}


def loaded_by(code: str, *arguments: object) -> set[str]:
    """The packages that a program has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('loaded', *sys.modules)"]
        + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.rsplit("loaded", 1)[1].split()}


def loaded_by_verb(*arguments: object) -> set[str]:
    """The packages that a command has imported when it ends well."""
    code = (
        "import sys\n"
        "from pipeline.cli.main import main\n"
        "try: main(sys.argv[1:], prog_name='shardscribe')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
    )
    return loaded_by(code, *arguments)


class QuietDisplay:
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.phases: list[str] = []
        self.shares: list[float] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def progress(self, progress) -> None:
        self.shares.append(progress.fraction)
        if not self.phases or self.phases[-1] != progress.phase:
            self.phases.append(progress.phase)


def commit_file(out, footer, *, rows, replace=False, guard=lambda: None) -> bool:
    """Finishes an output file and commits it, as a worker does."""
    split = SimpleNamespace(id=footer["split"], output_path=out.path, replace=replace)
    try:
        out.close(footer, rows=rows)
        return out.sink.commit(split, out.scratch, guard=guard)
    finally:
        out.discard()


def own(output) -> Path:
    """Where shardscribe keeps its own files of a local output."""
    return Path(own_address(str(output)))


def hollow_model(folder, architecture, *, files=("model.safetensors",), tokenizer=True, **config):
    """A model folder that is right as far as can be seen without loading it."""
    from tokenizers import Tokenizer, models

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"architectures": [architecture], "model_type": "bert", **config}
    (folder / "config.json").write_text(json.dumps(content))
    for name in files:
        (folder / name).write_bytes(hollow_weights())
    if tokenizer:
        Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))
    return folder


def hollow_weights(*names):
    """A safetensors file of one number for each name."""
    at = [4 * place for place in range(len(names) + 1)]
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [at[place], at[place + 1]]}
        for place, name in enumerate(names)
    }
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + bytes(4 * len(names))


def rows_of(directory) -> list[dict]:
    """All rows below a directory, by id where they have one."""
    rows = pads.dataset(str(directory), format="parquet", partitioning="hive").to_table()
    found = rows.to_pylist()
    return sorted(found, key=lambda row: row["id"]) if found and "id" in found[0] else found


def tiny_classifier(folder):
    """A random BERT classifier of 32 dimensions with a vocabulary of its own, as a model folder.

    The word ``poison`` has no embedding: a text that holds it makes the model raise, whatever
    else is in its batch.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(200)), "poison"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words) - 1,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        id2label={0: "no", 1: "yes"},
        label2id={"no": 0, "yes": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
