"""Writing, against its peers: `generate` (free and JSON), `summarize` abstractive, `translate`.

The peers are `model.generate`, rows sorted by length, and CTranslate2 in float32, which has no
JSON, each at its best batch size: larger ones are tried until one is slower. All write greedily on
as many threads and read the same prompts; of shardscribe the whole task counts, loaded, from texts
to a column. All are warm, the ways alternate, and the ratio is that of the medians. Processor time
stands beside it, as a busy machine spoils it less.

Rows of shardscribe that are not what `model.generate` wrote in its batches are held against what it
writes for each alone. Where these part, the two tokens have to be as good as equal by the model's
own scores, or the benchmark fails.

`generate` is by ``starter/smollm2``. No package carries an encoder-decoder, so that `summarize` is
by a BART and `translate` by a Marian of usual size with random weights, which hardly ever end: all
rows are as long as they may be.

    python benchmarks/writing.py --rounds 3
    python benchmarks/writing.py --only translate --rows 32 --rounds 1 --sizes 16
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import ctranslate2
import numpy as np
import torch
import transformers
from ctranslate2.converters import TransformersConverter
from peers import Way
from texts import digest, machine, write_section
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from pipeline.models.device import Device
from pipeline.models.resolve import look_up
from pipeline.models.torch.auto import AUTO_CLASSES
from pipeline.models.torch.load import TorchModels
from pipeline.starter import catalog
from pipeline.starter.reviews import load_reviews
from pipeline.tasks import TASKS

SIZES = (8, 12, 24, 48)
# Rows that everything is warmed with.
WARM = 4
TIE = 1e-4
EQUAL = 0.99
NEW = 48
FORM = {
    "type": "object",
    "properties": {
        "opinion": {"enum": ["positive", "negative", "mixed"]},
        "title": {"type": "string", "maxLength": 40},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        "recommended": {"type": "boolean"},
    },
    "required": ["opinion", "title", "stars", "recommended"],
}


@dataclass
class Case:
    """What is measured.

    Attributes:
        options: Of the task.
        folder: Of the model.
        texts: What is annotated.
        words: What the model is, for the table's title.
    """

    options: dict[str, Any]
    folder: Path
    texts: list[str]
    words: str


@dataclass
class Timed(Way):
    """A way, and the processor time of the whole process in each round."""

    processor: list[float] = field(default_factory=list)

    @property
    def processor_median(self) -> float:
        return statistics.median(self.processor)


def alternate(ways: Sequence[Timed], rounds: int) -> None:
    """Runs the ways in turn."""
    for _ in range(rounds):
        for way in ways:
            before = time.process_time()
            seconds, way.result = way.run()
            way.processor.append(time.process_time() - before)
            way.seconds.append(seconds)
        told = ", ".join(f"{w.name} {w.seconds[-1]:.2f} ({w.processor[-1]:.2f})" for w in ways)
        print(f"  seconds (of processors): {told}", flush=True)


def best(name: str, sizes: Sequence[int], make: Callable[[int], Callable[[], Any]]) -> int:
    """The batch size that a way is fastest with: larger ones are tried until one is slower."""
    took: dict[int, float] = {}
    for size in sizes if len(sizes) > 1 else ():
        before = time.process_time()
        make(size)()
        took[size] = time.process_time() - before
        if took[size] > min(took.values()):
            break
    told = ", ".join(f"{size}: {seconds:.1f} s" for size, seconds in took.items())
    print(f"  {name}, batch sizes, processor time: {told or 'as given'}", flush=True)
    return min(took, key=lambda size: took[size], default=sizes[0])


class Listener:
    """A generator that remembers what it was asked and what it wrote."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator
        self.prompts: list[np.ndarray] = []
        self.written: list[tuple[int, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)

    def generate(self, prompts: Sequence[np.ndarray], decoding: Any) -> Any:
        found = self.generator.generate(prompts, decoding)
        self.prompts, self.written = list(prompts), [row.ids for row in found.results]
        return found


def ours(case: Case) -> tuple[Callable[[], tuple[float, Any]], Listener, Any]:
    """The task; what its model hears; how it writes."""
    reference = str(case.folder)
    info = look_up(reference)
    kind = TASKS[case.options["kind"]]
    task = kind(kind.Options.model_validate({**case.options, "model": reference}))
    task.check_model(info)
    device = Device("cpu")
    loaded: Any = task.load(TorchModels({reference: info}, device=device))
    writer = loaded.writer
    writer.generator = Listener(writer.generator)

    def run() -> tuple[float, Any]:
        started = time.perf_counter()
        answer = loaded.annotate(case.texts)
        seconds = time.perf_counter() - started
        if len(answer.failures) > len(case.texts) // 4:  # JSON may be unfinished
            raise SystemExit(f"rows failed: {next(iter(answer.failures.values()))}")
        return seconds, writer.generator.written

    return run, writer.generator, writer.decoding


class RowMasks:
    """Masks of llguidance, one row after the other, as its documentation has it."""

    def __init__(self, grammar: Any, start: int) -> None:
        self.grammar, self.start = grammar, start
        self.matchers: list[Any] = []

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        from llguidance.torch import allocate_token_bitmask, fill_next_token_bitmask

        if ids.shape[1] == self.start:
            self.matchers = [self.grammar._empty.deep_copy() for _ in ids]
        else:
            for matcher, token in zip(self.matchers, ids[:, -1].tolist(), strict=True):
                if not matcher.is_stopped():
                    matcher.consume_token(token)
        bits = allocate_token_bitmask(len(ids), scores.shape[1])
        for row, matcher in enumerate(self.matchers):
            fill_next_token_bitmask(matcher, bits, row)
        shifts = torch.arange(32, dtype=torch.int32)
        allowed = (bits.unsqueeze(-1) >> shifts & 1).flatten(1)[:, : scores.shape[1]]
        return scores.masked_fill(allowed == 0, -torch.inf)


class Plain:
    """The model as transformers loads it."""

    def __init__(self, case: Case, decoding: Any) -> None:
        self.seq2seq = case.options["kind"] in ("summarize", "translate")
        auto = getattr(transformers, AUTO_CLASSES["seq2seq" if self.seq2seq else "causal"])
        self.module = auto.from_pretrained(case.folder, dtype=torch.float32).eval()
        self.pad = self.module.generation_config.pad_token_id
        self.decoding = decoding

    def generate(self, prompts: Sequence[np.ndarray]) -> list[list[int]]:
        """A batch: what each row wrote, its end token and padding left out."""
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), self.pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            at = slice(len(prompt)) if self.seq2seq else slice(longest - len(prompt), None)
            ids[row, at], mask[row, at] = torch.from_numpy(prompt), 1
        start = 1 if self.seq2seq else longest
        grammar = self.decoding.grammar
        with torch.inference_mode():
            out = self.module.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=self.decoding.max_new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=self.pad,
                logits_processor=[] if grammar is None else [RowMasks(grammar, start)],
            )
        return [self.until_end(row) for row in out[:, start:].tolist()]

    def until_end(self, row: list[int]) -> list[int]:
        ends = self.module.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends}
        return row[: next((at for at, token in enumerate(row) if token in ends), len(row))]

    def scores_after(self, prompt: np.ndarray, written: Sequence[int]) -> torch.Tensor:
        """The scores of what comes next, of shape [vocabulary]."""
        ids = torch.from_numpy(prompt)[None]
        wrote = torch.tensor(written, dtype=torch.int64)[None]
        with torch.inference_mode():
            if not self.seq2seq:
                scores: torch.Tensor = self.module(input_ids=torch.cat([ids, wrote], 1)).logits
                return scores[0, -1]
            start = torch.tensor([[self.module.generation_config.decoder_start_token_id]])
            wrote = torch.cat([start, wrote], 1)
            scores = self.module(input_ids=ids, decoder_input_ids=wrote).logits
            return scores[0, -1]

    def way(self, prompts: Sequence[np.ndarray], size: int) -> Callable[[], tuple[float, Any]]:
        """All prompts in batches of a size, sorted by length."""
        order = sorted(range(len(prompts)), key=lambda at: -len(prompts[at]))

        def run() -> tuple[float, Any]:
            started = time.perf_counter()
            out: list[Any] = [None] * len(prompts)
            for first in range(0, len(order), size):
                batch = order[first : first + size]
                for at, row in zip(batch, self.generate([prompts[i] for i in batch]), strict=True):
                    out[at] = row
            return time.perf_counter() - started, out

        return run


def ctranslate2_way(
    case: Case, plain: Plain, scratch: Path
) -> Callable[[Sequence[np.ndarray]], Callable[[int], Callable[[], tuple[float, Any]]]]:
    """What makes ways of prompts and a batch size, by CTranslate2's own converter."""
    folder = scratch / "ctranslate2"
    TransformersConverter(str(case.folder)).convert(str(folder), quantization="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(case.folder)
    kind = ctranslate2.Translator if plain.seq2seq else ctranslate2.Generator
    model = kind(
        str(folder), device="cpu", compute_type="float32", intra_threads=torch.get_num_threads()
    )
    new = plain.decoding.max_new_tokens

    def make(prompts: Sequence[np.ndarray], size: int) -> Callable[[], tuple[float, Any]]:
        rows = [tokenizer.convert_ids_to_tokens(prompt.tolist()) for prompt in prompts]
        how = {"beam_size": 1, "max_batch_size": size, "batch_type": "examples"}

        def run() -> tuple[float, Any]:
            started = time.perf_counter()
            if plain.seq2seq:
                answers = model.translate_batch(rows, max_decoding_length=new, **how)
                out = [answer.hypotheses[0] for answer in answers]
            else:
                answers = model.generate_batch(
                    rows, max_length=new, include_prompt_in_result=False, **how
                )
                out = [answer.sequences[0] for answer in answers]
            seconds = time.perf_counter() - started
            return seconds, [plain.until_end(tokenizer.convert_tokens_to_ids(row)) for row in out]

        return run

    return lambda prompts: lambda size: make(prompts, size)


def compare(
    plain: Plain,
    prompts: Sequence[np.ndarray],
    written: Sequence[Sequence[int]],
    batched: Sequence[Sequence[int]],
) -> tuple[int, float]:
    """How many rows are not what `model.generate` writes in batches nor for each alone, and how
    far from a tie.

    Raises:
        SystemExit: One differs where there is no tie.
    """
    differing, widest = 0, 0.0
    for row, (prompt, mine) in enumerate(zip(prompts, written, strict=True)):
        if list(mine) == list(batched[row]):
            continue
        alone = plain.generate([prompt])[0]
        if list(mine) == alone:
            continue
        differing += 1
        part = next(
            (at for at, (a, b) in enumerate(zip(mine, alone, strict=False)) if a != b),
            min(len(mine), len(alone)),
        )
        scores = plain.scores_after(prompt, alone[:part])
        ends = plain.module.generation_config.eos_token_id
        end = ends[0] if isinstance(ends, list) else ends
        two = [row[part] if part < len(row) else end for row in (mine, alone)]
        gap = abs(float(scores[two[0]] - scores[two[1]]))
        widest = max(widest, gap)
        if gap > TIE:
            raise SystemExit(
                f"row {row} differs at token {part}: {two}, whose scores are {gap} apart"
            )
    return differing, widest


def measure(case: Case, rounds: int, sizes: Sequence[int]) -> str:
    """A part of the section."""
    run, heard, decoding = ours(case)
    run()
    prompts = [np.asarray(prompt, dtype=np.int64) for prompt in heard.prompts]
    plain = Plain(case, decoding)
    # A batch larger than all there is is the same one.
    sizes = [size for size in sizes if size <= len(prompts)] or sizes[:1]
    plain.generate(prompts[:WARM])
    size = best("model.generate", sizes, lambda s: plain.way(prompts, s))
    ways = [Timed(f"`model.generate`, batches of {size}", plain.way(prompts, size))]
    with tempfile.TemporaryDirectory() as scratch:
        if decoding.grammar is None:
            make = ctranslate2_way(case, plain, Path(scratch))
            make(prompts[:WARM])(WARM)()
            size = best("CTranslate2", sizes, make(prompts))
            ways.append(Timed(f"CTranslate2, float32, batches of {size}", make(prompts)(size)))
        ways.append(Timed("shardscribe", run))
        alternate(ways, rounds)
    differing, gap = compare(plain, prompts, ways[-1].result, ways[0].result)
    if differing > (1 - EQUAL) * len(prompts):
        raise SystemExit(f"{differing} of {len(prompts)} rows are not what model.generate writes")
    tokens = sum(len(row) for row in ways[-1].result)
    lengths = [len(prompt) for prompt in prompts]
    near = f", at ties within {gap:.0e}" if differing else ""
    return (
        f"{case.words}. {len(prompts)} prompts ({digest(case.texts)}) of {np.mean(lengths):.0f} "
        f"tokens on average, longest {max(lengths)}; {tokens / len(prompts):.0f} new ones. "
        f"{len(prompts) - differing} rows are token for token what `model.generate` writes"
        f"{near}.\n\n{table(ways, len(prompts), tokens)}"
    )


def table(ways: Sequence[Timed], rows: int, tokens: int) -> str:
    """A line per way; the last is the one that the others are compared with."""
    lines = [
        "| way | rows/s | new tokens/s | median s | times as fast | processor s | times |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    mine = ways[-1]
    for way in ways:
        ratio = "" if way is mine else f"{way.median / mine.median:.2f}"
        less = "" if way is mine else f"{way.processor_median / mine.processor_median:.2f}"
        lines.append(
            f"| {way.name} | {rows / way.median:.2f} | {tokens / way.median:,.0f} "
            f"| {way.median:.2f} | {ratio} | {way.processor_median:.2f} | {less} |"
        )
    return "\n".join(lines)


def random_writer(folder: Path, kind: str) -> Path:
    """An encoder-decoder of usual size, with random weights (always the same), a real tokenizer."""
    made = Tokenizer.from_file(str(catalog.folder("starter/smollm2") / "tokenizer.json"))
    end, size = "<|im_end|>", made.get_vocab_size()
    at = made.token_to_id(end)
    made.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, at)])
    pad = "<|endoftext|>"
    if kind == "marian":  # whose padding token is its last, and what it starts to write from
        pad = "<pad>"
        made.add_special_tokens([pad])
        size += 1
    padding = made.token_to_id(pad)
    names = {"pad_token_id": padding, "eos_token_id": at, "vocab_size": size}
    common = {"decoder_start_token_id": at, "forced_eos_token_id": None, "dtype": "float32"}
    torch.manual_seed(0)
    if kind == "bart":  # BART-base
        sizes = {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6}
        sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 12)
        sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 3072)
        config = transformers.BartConfig(**names, **common, **sizes, bos_token_id=1)
        config.normalize_before = False  # read by CTranslate2
        module = transformers.BartForConditionalGeneration(config)
    else:  # as the OPUS-MT models have it
        sizes = {"d_model": 512, "encoder_layers": 6, "decoder_layers": 6}
        sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 8)
        sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 2048)
        common |= {"decoder_start_token_id": padding, "scale_embedding": True}
        common |= {"activation_function": "swish", "max_position_embeddings": 512}
        config = transformers.MarianConfig(**names, **common, **sizes)
        module = transformers.MarianMTModel(config)
    with torch.no_grad():
        module.get_input_embeddings().weight[padding] = 0
        # As they are made, what goes past the layers outweighs them, so that words repeat.
        for name, weight in module.model.named_parameters():
            if weight.dim() == 2 and "embed" not in name and "shared" not in name:
                weight *= 5
    module.generation_config.forced_bos_token_id = None
    module.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=pad,
        eos_token=end,
        bos_token="<|im_start|>",
        unk_token="<|endoftext|>",
        model_max_length=1024 if kind == "bart" else 512,
    ).save_pretrained(folder)
    return folder


def reviews(rows: int, *, shortest: int, longest: int) -> list[str]:
    """Real texts of so many characters."""
    parts = load_reviews()
    found = [review.text for review in (*parts.test, *parts.rest)]
    texts = list(dict.fromkeys(t for t in found if shortest <= len(t) <= longest))
    if len(texts) < rows:
        raise SystemExit(f"there are {len(texts)} texts of that length")
    return texts[:rows]


def free(rows: int, scratch: Path) -> Case:
    """Free text by a small chat model."""
    ask = "What do you think of the film, going by this review? Answer in two sentences."
    return Case(
        {"kind": "generate", "instruction": ask, "max_new_tokens": NEW},
        catalog.folder("starter/smollm2"),
        reviews(rows, shortest=600, longest=1800),
        "`generate` by `starter/smollm2`, 134.5 M parameters",
    )


def form(rows: int, scratch: Path) -> Case:
    """JSON by the same model."""
    ask = f"Fill in this form about the review, in JSON: {json.dumps(FORM['properties'])}"
    return Case(
        {
            "kind": "generate",
            "instruction": ask,
            "max_new_tokens": 64,
            "format": "json",
            "json_schema": FORM,
        },
        catalog.folder("starter/smollm2"),
        reviews(rows, shortest=300, longest=1500),
        "`generate` with `format: json` by `starter/smollm2`; `model.generate` is held to the "
        "schema by llguidance too, a row after the other",
    )


def summarize(rows: int, scratch: Path) -> Case:
    """Abstractive summaries by a BART."""
    return Case(
        {"kind": "summarize", "method": "abstractive", "merge": "truncate", "max_new_tokens": NEW},
        random_writer(scratch / "bart", "bart"),
        reviews(rows, shortest=600, longest=1800),
        "`summarize`, `method: abstractive`, by a BART of the size of BART-base, random weights",
    )


def translate(rows: int, scratch: Path) -> Case:
    """Translations by a Marian."""
    return Case(
        {"kind": "translate", "max_new_tokens": 64},
        random_writer(scratch / "marian", "marian"),
        reviews(rows, shortest=80, longest=160),
        "`translate` by a Marian of the size of OPUS-MT's, random weights",
    )


CASES = {"generate": free, "json": form, "summarize": summarize, "translate": translate}


def main() -> int:
    """Measures, checks, prints, and writes the results down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=24, help="of each case")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="batch sizes to try")
    parser.add_argument("--only", choices=sorted(CASES), action="append")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    sizes = " ".join(map(str, options.sizes))
    given = "" if tuple(options.sizes) == SIZES else f" --sizes {sizes}"
    given = f"--rows {options.rows} --rounds {options.rounds}{given}"
    parts = [
        f"    python benchmarks/writing.py {given}\n\n"
        f"{machine()}, ctranslate2 {ctranslate2.__version__}; {options.threads} threads.\n\n"
        f"Greedy, float32. Ways are warm and alternate, {options.rounds} rounds, medians. Batch "
        f"sizes are the best of {', '.join(sizes.split())}, by processor time, tried until "
        "one is slower. Of shardscribe the loaded task counts, from texts to "
        "a column; of the others the decoding alone, prompts made."
    ]
    for name in options.only or CASES:
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            case = CASES[name](options.rows, Path(scratch))
            parts.append(f"**{name}**: {measure(case, options.rounds, options.sizes)}")
        print(parts[-1])
    if not options.no_write and not options.only:
        title = "Writing, against model.generate and CTranslate2"
        write_section(title, "\n\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
