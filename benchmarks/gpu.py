"""An encoder of BERT-base size on a GPU: packed, padded, and Hugging Face's pipeline.

The weights are random, which is as fast as trained ones. The texts are real reviews, four short
ones for each long one, that fit the model whole; from the second round through them on they are
numbered, so that no two are equal. What is measured, each warm, the median of some rounds:

- packed: the forward in bfloat16 on batches that are on the device already, for several budgets;
- padded: the same texts, weights and budgets on the padded path, which cuts batches by length;
- texts to scores: tokenizing, packing, copying and waiting included, at the best packed budget;
- Parquet to Parquet: the worker's own path over all rows, with as many calls in flight as the
  driver gives a worker; how long the device was held is printed beside it;
- Hugging Face: pipeline("text-classification") in float16, from texts to scores, at the best of
  its batch sizes. This is to be compared with "texts to scores", not with a forward alone.

A useful operation is a multiply or an add of a linear layer of the encoder (2 a weight and token)
or of attention within a text (4 x length x dim a layer and token); padding is none. Their peak
is 989 TFLOP/s: bfloat16 without sparsity, NVIDIA H200 Tensor Core GPU datasheet (SXM), whose 1,979
are with it. What a large matrix product reaches on the same machine is measured beside.

All must give the scores of the padded path in float32, or the benchmark fails: off, in the root
mean square, by less than a tenth of what scores differ between texts.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --rows 20000 --forward-rows 4000 --rounds 2
    python benchmarks/gpu.py --texts reviews.parquet --tokenizer folder --skip-parquet
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import numpy as np
import torch
import transformers

from pipeline.engine.messages import IN_FLIGHT, WorkPlan
from pipeline.models.batching import batches
from pipeline.models.torch.packed import Packed, PackedEncoder, packed

DEVICE = "cuda"
PEAK = 989e12  # NVIDIA H200 datasheet, bfloat16, dense
BUDGETS = (16_384, 32_768, 65_536, 131_072, 262_144)
SLACK = 4096  # as the engine's on a GPU
PIPELINE_BATCHES = (32, 128, 512)
LONGEST = 512
TOLERANCE = 0.1
CHECKED = 512
CONFIG: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": LONGEST,
    "num_labels": 3,
    # Wider than the usual 0.02, so that scores depend on the texts as those of a trained model do.
    "initializer_range": 0.03,
}


def main() -> int:
    """Measures, checks, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000, help="from Parquet to Parquet")
    parser.add_argument("--forward-rows", type=int, default=20_000, help="of them, by all else")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pipeline-rows", type=int, default=4_000, help="it takes its time")
    parser.add_argument("--texts", type=Path, help="Parquet with a column text; else the reviews")
    parser.add_argument("--tokenizer", type=Path, help="its folder; else starter/minilm's")
    parser.add_argument("--skip-parquet", action="store_true", help="forwards and pipeline only")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no CUDA device; this needs one", file=sys.stderr)
        return 2
    transformers.logging.set_verbosity_error()
    tokenizer = load_tokenizer(options.tokenizer)
    texts, ids = fitting(load_texts(options.texts), tokenizer, rows=options.rows)
    module = base_size(tokenizer)
    half = make(module, torch.bfloat16)
    encoder = packed(half)
    if encoder is None:
        print("this device or torch has no packed path in bfloat16", file=sys.stderr)
        return 2
    some, few = texts[: options.forward_rows], ids[: options.forward_rows]
    describe(few)
    rows, best = forwards(half, encoder, few, rounds=options.rounds)
    rows.append(texts_to_scores(encoder, tokenizer, some, few, best, rounds=options.rounds))
    classifier = transformers.pipeline(
        "text-classification", model=make(module, torch.float16), tokenizer=tokenizer, device=0
    )
    rows.append(hugging_face(classifier, some, few, rows=options.pipeline_rows))
    with torch.inference_mode():
        check_scores(module, half, encoder, classifier, texts[:CHECKED], ids[:CHECKED])
    print_rows(rows, work=flops(module, few) / tokens_of(few))
    if not options.skip_parquet:
        with tempfile.TemporaryDirectory() as temporary:
            parquet_to_parquet(Path(temporary), module, tokenizer, texts, tokens=tokens_of(ids))
    return 0


def load_tokenizer(folder: Path | None) -> Any:
    """Of a folder, or the starter's."""
    from pipeline.starter import catalog

    folder = folder or catalog.folder("starter/minilm")
    return transformers.AutoTokenizer.from_pretrained(folder, model_max_length=LONGEST)


def load_texts(path: Path | None) -> list[str]:
    """Of a Parquet file, or the reviews that nothing was trained on."""
    if path is not None:
        import pyarrow.parquet as pq

        return list(pq.read_table(path, columns=["text"])["text"].to_pylist())
    from pipeline.starter.reviews import LONG, SHORT, load_reviews

    rest = load_reviews().rest
    short = [review.text for review in rest if review.source == SHORT]
    long = [review.text for review in rest if review.source == LONG]
    mixed = np.random.default_rng(0).permutation([*short, *long[: len(short) // 4]])
    return [str(text) for text in mixed]


def fitting(
    texts: Sequence[str], tokenizer: Any, *, rows: int
) -> tuple[list[str], list[list[int]]]:
    """That many texts that fit the model, no two equal, and their tokens."""
    found: dict[str, list[int]] = {}
    turn = 0
    while len(found) < rows:
        numbered = [f"{text} {turn + 1}" if turn else text for text in texts]
        for text, ids in zip(numbered, tokenizer(numbered)["input_ids"], strict=True):
            if len(ids) <= LONGEST and len(found) < rows:
                found[text] = ids
        turn += 1
        if not found:
            raise SystemExit(f"no text has {LONGEST} tokens or fewer")
    return list(found), list(found.values())


def base_size(tokenizer: Any) -> Any:
    """Random weights in float32, on the CPU."""
    torch.manual_seed(0)
    pad = tokenizer.pad_token_id
    config = transformers.BertConfig(vocab_size=len(tokenizer), pad_token_id=pad, **CONFIG)
    module = transformers.BertForSequenceClassification(config).eval()
    torch.nn.init.normal_(module.classifier.weight, std=0.1)
    return module


def make(module: Any, dtype: torch.dtype) -> Any:
    """The same weights in another dtype, on the device."""
    other = type(module)(module.config).eval()
    other.load_state_dict(module.state_dict())
    return other.to(DEVICE, dtype)


def tokens_of(ids: Sequence[Sequence[int]]) -> int:
    """All tokens, special ones included."""
    return sum(map(len, ids))


def flops(module: Any, ids: Sequence[Sequence[int]]) -> float:
    """Useful operations of a pass over the texts."""
    linear = sum(
        part.weight.numel()
        for part in module.base_model.encoder.modules()
        if isinstance(part, torch.nn.Linear)
    )
    config = module.config
    squares = sum(len(text) ** 2 for text in ids)
    attention = 4 * squares * config.hidden_size * config.num_hidden_layers
    return float(2 * linear * tokens_of(ids) + attention)


def median_seconds(call: Callable[[], Any], *, rounds: int) -> float:
    """Of calls that are waited for, after one that warms up."""
    times = []
    for number in range(rounds + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        if number:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def describe(ids: Sequence[Sequence[int]]) -> None:
    """Prints what is measured on what."""
    size = 8192
    a = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    seconds = median_seconds(lambda: [a @ a for _ in range(20)], rounds=3) / 20
    lengths = [len(text) for text in ids]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", end=", ")
    print(f"transformers {transformers.__version__}")
    print(f"a bfloat16 matrix product of {size}: {2 * size**3 / seconds / 1e12:.0f} TFLOP/s")
    print(
        f"{len(ids):,} texts, {sum(lengths):,} tokens: mean {statistics.mean(lengths):.0f}, "
        f"median {statistics.median(lengths):.0f}, longest {max(lengths)}\n"
    )


def packed_batches(ids: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """Indices, longest first, cut where a batch would hold more tokens than the budget."""
    out: list[list[int]] = []
    room = 0
    for index in sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True):
        if len(ids[index]) > room or not out:
            out.append([])
            room = budget
        out[-1].append(index)
        room -= len(ids[index])
    return out


def padded_batch(ids: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask on the device."""
    out = torch.full((len(ids), max(map(len, ids))), pad)
    mask = torch.zeros_like(out)
    for row, text in enumerate(ids):
        out[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    return out.to(DEVICE), mask.to(DEVICE)


Row = tuple[str, int, float]  # what, tokens, seconds


def forwards(
    half: Any, encoder: PackedEncoder, ids: Sequence[Sequence[int]], *, rounds: int
) -> tuple[list[Row], int]:
    """Packed and padded, alternating, and the budget that is best for packed batches."""
    tokens = tokens_of(ids)
    rows: list[Row] = []
    best, best_seconds = BUDGETS[0], float("inf")
    for budget in BUDGETS:
        ready = [
            Packed.of([ids[i] for i in batch], device=DEVICE)
            for batch in packed_batches(ids, budget)
        ]
        plan = batches([len(text) for text in ids], budget=budget, slack=SLACK)
        pad = half.config.pad_token_id
        even = [padded_batch([ids[i] for i in batch], pad) for batch in plan]
        with torch.inference_mode():
            ours = median_seconds(partial(run_packed, encoder, ready), rounds=rounds)
            theirs = median_seconds(partial(run_padded, half, even), rounds=rounds)
        rows.append((f"packed forward, budget {budget:,}", tokens, ours))
        rows.append((f"padded forward, budget {budget:,}", tokens, theirs))
        if ours < best_seconds:
            best, best_seconds = budget, ours
    return rows, best


def run_packed(encoder: PackedEncoder, ready: Sequence[Packed]) -> list[torch.Tensor]:
    """Logits of each batch."""
    return [encoder.classify_logits(batch) for batch in ready]


def run_padded(module: Any, ready: Sequence[tuple[Any, Any]]) -> list[torch.Tensor]:
    """Logits of each batch."""
    return [module(input_ids=ids, attention_mask=mask).logits for ids, mask in ready]


def texts_to_scores(
    encoder: PackedEncoder,
    tokenizer: Any,
    texts: Sequence[str],
    ids: Sequence[Sequence[int]],
    budget: int,
    *,
    rounds: int,
) -> Row:
    """What the pipeline does, on packed batches: one thread, nothing side by side."""

    def run() -> np.ndarray:
        fresh = tokenizer(list(texts))["input_ids"]
        plan = packed_batches(fresh, budget)
        with torch.inference_mode():
            parts = [
                encoder.classify_logits(Packed.of([fresh[i] for i in batch], device=DEVICE))
                for batch in plan
            ]
            scores = torch.cat(parts).float().softmax(-1).cpu().numpy()
        out = np.empty_like(scores)
        out[np.concatenate(plan)] = scores
        return out

    seconds = median_seconds(run, rounds=rounds)
    return f"packed, texts to scores, budget {budget:,}", tokens_of(ids), seconds


def hugging_face(
    classifier: Any, texts: Sequence[str], ids: Sequence[Sequence[int]], *, rows: int
) -> Row:
    """The best of its batch sizes."""
    some = list(texts[:rows])
    times = {}
    for size in PIPELINE_BATCHES:
        times[size] = median_seconds(
            partial(classifier, some, batch_size=size, truncation=True, top_k=None),
            rounds=2,
        )
        print(f"pipeline, batch_size={size}: {times[size]:.2f} s for {len(some):,} texts")
    size = min(times, key=lambda key: times[key])
    what = f"Hugging Face, texts to scores, float16, batch_size={size}"
    return what, tokens_of(ids[:rows]), times[size]


def check_scores(
    module: Any,
    half: Any,
    encoder: PackedEncoder,
    classifier: Any,
    texts: Sequence[str],
    ids: Sequence[Sequence[int]],
) -> None:
    """Fails unless all ways give what the padded path gives in float32."""
    torch.set_float32_matmul_precision("highest")
    even = [padded_batch(ids, module.config.pad_token_id)]
    want = run_padded(make(module, torch.float32), even)[0].softmax(-1)
    answers = classifier(list(texts), batch_size=32, truncation=True, top_k=None)
    by_label = [{answer["label"]: answer["score"] for answer in row} for row in answers]
    names = [module.config.id2label[i] for i in range(module.config.num_labels)]
    found = {
        "packed": encoder.classify_logits(Packed.of(ids, device=DEVICE)).float().softmax(-1),
        "padded": run_padded(half, even)[0].float().softmax(-1),
        "Hugging Face": torch.tensor([[row[name] for name in names] for row in by_label]),
    }
    spread = float((want - want.mean(dim=0)).square().mean().sqrt())
    print(f"scores differ by {spread:.4f} between texts")
    for name, scores in found.items():
        off = scores.to(DEVICE) - want
        share = float(off.square().mean().sqrt()) / spread
        print(f"{name}: off by {share:.1%} of that, at most by {float(off.abs().max()):.4f}")
        if not share < TOLERANCE:
            raise SystemExit(f"{name}: scores are not those of float32")


def print_rows(rows: Sequence[Row], *, work: float) -> None:
    """Prints the table and the ratios.

    Args:
        rows: What was measured.
        work: Useful operations a token.
    """
    print(f"\nuseful work: {work / 1e6:.1f} MFLOP a token")
    print("| way | tokens/s | useful TFLOP/s | of 989 |\n|---|---:|---:|---:|")
    rate = {what: tokens / seconds for what, tokens, seconds in rows}
    for what, value in rate.items():
        done = value * work
        print(f"| {what} | {value:,.0f} | {done / 1e12:.0f} | {done / PEAK:.1%} |")

    def best(start: str) -> float:
        return max(value for what, value in rate.items() if what.startswith(start))

    print(f"\npacked to padded forward: {best('packed forward') / best('padded forward'):.2f}x")
    print(f"texts to scores to Hugging Face: {best('packed, texts') / best('Hugging'):.2f}x")


def parquet_to_parquet(
    directory: Path,
    module: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    tokens: int,
    device: str = DEVICE,
    shards: int = 16,
    rounds: int = 3,
) -> float:
    """The worker's own path, from Parquet to committed Parquet, planning included.

    Args:
        directory: An empty one.
        module: A model with a classification head.
        tokenizer: Its tokenizer.
        texts: The rows.
        tokens: How many all texts have.
        device: Such as ``cuda``.
        shards: Files of the input, each a split.
        rounds: After one that warms up.

    Returns:
        Tokens per second, of the median round.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.engine.worker.annotator import Annotator
    from pipeline.job.check import check, pin
    from pipeline.job.job import Job

    model, source = directory / "model", directory / "input"
    module.save_pretrained(model)
    tokenizer.save_pretrained(model)
    source.mkdir()
    for shard in range(shards):
        table = pa.table({"text": list(texts[shard::shards])})
        pq.write_table(table, source / f"part-{shard:05}.parquet")
    times = []
    for number in range(rounds + 1):
        output = directory / f"output-{number}"
        job = Job.model_validate(
            {
                "name": "bench",
                "input": {"path": str(source)},
                "output": {"path": str(output)},
                "tasks": {"label": {"kind": "classify", "model": str(model)}},
                "compute": {"device": device},
            }
        )
        annotator = Annotator(
            WorkPlan.of(pin(check(job)), device=device, threads=os.cpu_count() or 1)
        )
        started = time.perf_counter()
        with ThreadPoolExecutor(IN_FLIGHT) as calls:
            list(calls.map(annotator.annotate, pin(check(job)).splits()))
        times.append(time.perf_counter() - started)
        busy = annotator.heartbeat().busy_seconds
        rows = sum(pq.read_metadata(path).num_rows for path in output.glob("*.parquet"))
        if rows != len(texts):
            raise SystemExit(f"{len(texts)} rows expected, {rows} found")
        print(
            f"Parquet to Parquet, round {number}: {times[-1]:.2f} s, "
            f"the device held for {busy:.2f} s of it"
        )
    rate = tokens / statistics.median(times[1:])
    print(f"Parquet to Parquet: {rate:,.0f} tokens/s")
    return rate


if __name__ == "__main__":
    sys.exit(main())
