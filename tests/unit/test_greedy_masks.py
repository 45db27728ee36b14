"""JSON written greedily: the token that a mask would leave, found without one where it can be."""

from typing import Any

import numpy as np
import pytest
import tiny_writers as tiny
import torch

from pipeline.models.text.grammar import Grammar
from pipeline.models.text.texts import Tokenizer
from pipeline.models.text.tokenizer import load_tokenizer
from pipeline.models.torch.grammar import GrammarMask, GrammarRuns
from pipeline.models.torch.rules import Live
from pipeline.models.torch.steps import likeliest
from pipeline.starter import catalog

pytestmark = pytest.mark.unit

ROWS, MOST = 12, 40
FORM = {
    "type": "object",
    "properties": {
        "opinion": {"enum": ["positive", "positively not", "mixed", "né"]},
        "title": {"type": "string", "maxLength": 20},
        "stars": {"type": "integer", "minimum": 1, "maximum": 15},
        "seen": {"type": ["boolean", "null"]},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
    },
    "required": ["opinion", "title", "stars", "seen"],
    "additionalProperties": False,
}
ONE = {
    "type": "object",
    "properties": {"answer": {"const": "the one and only answer, 12345.0"}},
    "required": ["answer"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["pieces", "bytes"])
def tokenizer(request: Any) -> Any:
    if request.param == "bytes":
        return tiny.byte_tokenizer()
    return load_tokenizer(catalog.folder("starter/smollm2"))


@pytest.mark.parametrize("schema", [FORM, ONE], ids=["a form", "one text alone"])
def test_greedy_rows_write_what_the_mask_leaves(tokenizer: Any, schema: Any) -> None:
    grammar = Grammar(Tokenizer(tokenizer), schema, ends=[tokenizer.eos_token_id])
    by_mask, greedy = GrammarMask(grammar), GrammarMask(grammar, greedy=True)
    chance = torch.Generator().manual_seed(0)
    rows, size = np.arange(ROWS), len(tokenizer) + 8  # a model may have more tokens than that
    written = np.zeros((ROWS, MOST), dtype=np.int64)
    letters = [at for word, at in tokenizer.get_vocab().items() if len(word) == 1]
    refused = 0
    for step in range(MOST):
        live = Live(rows, np.full(ROWS, step), written)
        scores = torch.randn((ROWS, size), generator=chance)
        allowed = by_mask(live, scores.clone()).isfinite()
        # Some rows would write what may come, as trained models do; others a letter at a time,
        # which a document takes and the mask may not.
        scores[::3] += 9.0 * allowed[::3]
        scores[1::3, letters] += 9.0
        right = likeliest(scores.masked_fill(~allowed, -torch.inf))
        refused += int((likeliest(scores) != right).sum())
        found = likeliest(greedy(live, scores))
        assert found.tolist() == right.tolist()
        written[:, step] = right
    assert refused > ROWS


@pytest.mark.parametrize("schema", [FORM, ONE], ids=["a form", "one text alone"])
@pytest.mark.parametrize("most", [9, MOST])
def test_what_alone_can_come_is_known_without_scores(
    tokenizer: Any, schema: Any, most: int
) -> None:
    grammar = Grammar(Tokenizer(tokenizer), schema, ends=[tokenizer.eos_token_id])
    chance = torch.Generator().manual_seed(1)
    scores = torch.randn((ROWS, most, len(tokenizer) + 8), generator=chance)

    def written(rule: Any, row: int) -> tuple[list[int], int]:
        wrote, step, asked = np.zeros((1, most), dtype=np.int64), 0, 0
        while step < most and (not step or wrote[0, step - 1] != tokenizer.eos_token_id):
            live = Live(np.array([row]), np.array([step]), wrote)
            wrote[0, step] = int(likeliest(rule(live, scores[row, step][None].clone()))[0])
            step, asked = step + 1, asked + 1
            ended = step == most or wrote[0, step - 1] == tokenizer.eos_token_id
            if isinstance(rule, GrammarRuns) and not ended:
                (run,) = rule.ahead(Live(live.rows, np.array([step]), wrote))
                wrote[0, step : step + len(run)] = run
                step += len(run)
        return wrote[0, :step].tolist(), asked

    by_mask, runs = GrammarMask(grammar), GrammarRuns(grammar)
    for row in range(ROWS):
        (one_by_one, steps), (at_once, asked) = written(by_mask, row), written(runs, row)
        assert at_once == one_by_one
        assert asked < 0.8 * steps
