"""The kernel of the packed path against the padded path in float32, at the size of BERT-base."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pipeline.models.torch.packed import Packed, PackedEncoder, packed
from pipeline.models.torch.pooling import pool
from pipeline.models.torch.transfer import Queued

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason=f"torch {torch.__version__} sees no CUDA device"
    ),
]

DEVICE = "cuda"
# Of the root mean square. On a CPU, bfloat16 is off by 0.9 to 1.2 % in vectors, 1.7 % in logits.
TOLERANCE = 2e-2
LOGITS_TOLERANCE = 3e-2
EQUAL_LABELS = 0.995
LABELS = 9
PAD = 1
FAMILIES = ("Bert", "DistilBert", "ModernBert", "Roberta", "XLMRoberta")


@pytest.fixture(autouse=True)
def true_float32() -> Any:
    """The reference must not be computed in TF32, which has fewer bits than it seems."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def base_size(family: str, head: str) -> Any:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "vocab_size": 30_522,
        "pad_token_id": PAD,
        "num_labels": LABELS,
        "max_position_embeddings": 514,
        "attn_implementation": "sdpa",
    }
    if family == "ModernBert":  # its own layout: 22 layers, windows of 64 to each side
        special = {f"{name}_token_id": PAD for name in ("bos", "eos", "cls", "sep")}
        options |= {"global_attn_every_n_layers": 3, "local_attention": 128, **special}
    module = getattr(transformers, f"{family}{head}")(
        getattr(transformers, f"{family}Config")(**options)
    )
    # As far apart as those of a trained head.
    for name, weight in module.named_parameters():
        if name.endswith(("classifier.weight", "classifier.out_proj.weight")):
            torch.nn.init.normal_(weight, std=0.5)
    return module.eval().to(DEVICE)


def texts(count: int = 400, *, longest: int = 500) -> list[np.ndarray]:
    """Mostly short ones, some of one token, one much longer than the rest."""
    dice = np.random.default_rng(0)
    lengths = np.minimum(1 + dice.geometric(1 / 40, size=count), 300)
    lengths[:3], lengths[3] = 1, longest
    return [dice.integers(PAD + 1, 30_522, size=length) for length in lengths]


def padded(rows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.full((len(rows), max(map(len, rows))), PAD)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(rows):
        ids[row, : len(text)] = torch.from_numpy(text)
        mask[row, : len(text)] = 1
    return ids.to(DEVICE), mask.to(DEVICE)


def expected(module: Any, rows: Sequence[np.ndarray]) -> Any:
    """The padded path in float32, 50 texts at a time: the output and the mask of each part."""
    parts = []
    for start in range(0, len(rows), 50):
        ids, mask = padded(rows[start : start + 50])
        with torch.inference_mode():
            parts.append((module(input_ids=ids, attention_mask=mask), mask.bool()))
    return parts


def half(module: Any) -> PackedEncoder:
    encoder = packed(copy.deepcopy(module).to(torch.bfloat16))
    assert encoder is not None, "this device has no packed path in bfloat16"
    return encoder


def error(found: torch.Tensor, want: torch.Tensor) -> float:
    """Root mean square of the difference, as a share of that of what was wanted."""
    return float((found.float() - want).square().mean().sqrt() / want.square().mean().sqrt())


def assert_same_labels(found: torch.Tensor, want: torch.Tensor) -> None:
    """The labels of a random head nearly tie now and then, and a tie falls either way."""
    assert error(found, want) < LOGITS_TOLERANCE
    best, second = want.topk(2, dim=-1).values.unbind(-1)
    decided = best - second > 2 * LOGITS_TOLERANCE * want.std()
    assert float(decided.float().mean()) > 0.8
    equal = (found.argmax(-1) == want.argmax(-1))[decided]
    assert float(equal.float().mean()) >= EQUAL_LABELS


@pytest.mark.parametrize("family", FAMILIES)
def test_token_vectors_are_those_of_the_padded_path(family: str) -> None:
    module, rows = base_size(family, "Model"), texts()
    want = torch.cat([out.last_hidden_state[mask] for out, mask in expected(module, rows)])
    with torch.inference_mode():
        found = half(module).forward(Packed.of(rows, device=DEVICE))
    assert found.dtype is torch.bfloat16
    assert error(found, want) < TOLERANCE
    # A text that saw a neighbour, or too little of itself, is far off, however few they are.
    apart = torch.nn.functional.cosine_similarity(found.float(), want, dim=-1)
    assert float(apart.min()) > 0.99


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_of_texts_are_those_of_the_padded_path(family: str) -> None:
    module, rows = base_size(family, "ForSequenceClassification"), texts(count=2_000)
    want = torch.cat([out.logits for out, _ in expected(module, rows)])
    with torch.inference_mode():
        found = half(module).classify_logits(Packed.of(rows, device=DEVICE))
    assert_same_labels(found, want)


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_of_tokens_are_those_of_the_padded_path(family: str) -> None:
    module, rows = base_size(family, "ForTokenClassification"), texts()
    want = torch.cat([out.logits[mask] for out, mask in expected(module, rows)])
    with torch.inference_mode():
        found = half(module).token_logits(Packed.of(rows, device=DEVICE))
    assert_same_labels(found, want)


@pytest.mark.parametrize("how", ["mean", "cls", "max"])
def test_texts_are_pooled_as_on_the_padded_path(how: str) -> None:
    module, rows = base_size("Bert", "Model"), texts()
    want = torch.cat(
        [pool(out.last_hidden_state, mask, how=how) for out, mask in expected(module, rows)]
    )
    with torch.inference_mode():
        found = half(module).pooled(Packed.of(rows, device=DEVICE), how=how)
    assert found.dtype is torch.float32
    assert error(found, want) < TOLERANCE


def test_float32_on_a_gpu_has_no_packed_path() -> None:
    assert packed(base_size("Bert", "Model")) is None


def test_a_batch_is_computed_without_waiting_for_the_device() -> None:
    encoder = half(base_size("Bert", "ForSequenceClassification"))
    batch = Packed.of(texts(), device=DEVICE)
    with torch.inference_mode():
        encoder.classify_logits(batch)  # the first call may set up what it needs
        torch.cuda.set_sync_debug_mode("error")
        try:
            encoder.classify_logits(batch)
            encoder.pooled(batch, how="mean")
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_results_are_asked_for_without_waiting_and_read_back_in_any_order() -> None:
    encoder, queue = half(base_size("Bert", "ForSequenceClassification")), Queued(DEVICE)
    batches = [texts(count) for count in (300, 100)]
    flat = [(np.concatenate(rows), np.array([len(row) for row in rows])) for rows in batches]

    def ask() -> list[Any]:
        packs = [Packed.place(ids, lengths, place=queue.place) for ids, lengths in flat]
        return [queue.fetch(encoder.classify_logits(pack).float()) for pack in packs]

    with torch.inference_mode():
        for wait in ask():  # the first call may set up what it needs, pinned memory among it
            wait()
        torch.cuda.set_sync_debug_mode("error")
        try:
            first, second = ask()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        late, early = second(), first()
        for rows, found in zip(batches, (early, late), strict=True):
            want = encoder.classify_logits(Packed.of(rows, device=DEVICE)).float().cpu().numpy()
            np.testing.assert_allclose(found, want, atol=1e-2)
