"""What embed, zero_shot, answer and redact take of a job file and of a model, before any weight."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.errors import JobError
from pipeline.models.resolve import ModelInfo
from pipeline.models.sentence_files import width
from pipeline.tasks import TASKS

pytestmark = pytest.mark.unit

LABELS = ["a", "b"]


def make(kind: str, **options: Any) -> Any:
    task = TASKS[kind]
    return task(task.Options.model_validate({"kind": kind, "model": "m", **options}))


def info(architecture: str, *, chat: bool = False, **config: Any) -> ModelInfo:
    return ModelInfo("m", {"architectures": [architecture], **config}, chat_template=chat)


NLI = info("BertForSequenceClassification", id2label={"0": "Entailment", "1": "other"})
ENCODER = info("BertModel", hidden_size=7)
CHAT = info("LlamaForCausalLM", chat=True)
FINDER = info("BertForQuestionAnswering")
TAGGER = info(
    "BertForTokenClassification", id2label={"0": "O", "1": "B-PER", "2": "I-PER", "3": "B-ID-CARD"}
)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([], "there is no label"),
        ({}, "there is no label"),
        (["a", "b", "a"], "`a` stands twice"),
        (["a", " a "], "`a` stands twice"),
        ({"x": "same", "y": "same"}, "`same` stands twice"),
        (["a", "  "], "blank"),
        ({"a": ""}, "blank"),
        ([True, False], "True is no text: write it in quotes"),
        ("a, b", "write a list of labels, or a mapping"),
    ],
)
def test_labels_that_could_not_be_told_apart_are_refused(labels: Any, reason: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(reason)):
        make("zero_shot", labels=labels)


@pytest.mark.parametrize("template", ["This is it.", "{} or {}", ""])
@pytest.mark.parametrize("name", ["hypothesis_template", "answer_template"])
def test_a_template_without_one_place_for_the_label_is_refused(name: str, template: str) -> None:
    with pytest.raises(ValidationError, match="once, where the label goes"):
        make("zero_shot", labels=LABELS, **{name: template})


@pytest.mark.parametrize(
    ("option", "value", "fits"),
    [
        ("hypothesis_template", "It is {}.", NLI),
        ("temperature", 0.1, ENCODER),
        ("instruction", "What?", CHAT),
        ("answer_template", "It is {}", CHAT),
        ("calibrate", False, CHAT),
    ],
)
def test_an_option_of_another_family_of_models_is_refused(
    option: str, value: Any, fits: ModelInfo
) -> None:
    task = make("zero_shot", labels=LABELS, **{option: value})
    task.check_model(fits)
    for other in (NLI, ENCODER, CHAT):
        if other is not fits:
            with pytest.raises(JobError, match=f"`{option}` has no meaning"):
                task.check_model(other)


def test_several_labels_at_once_are_not_for_chat_models() -> None:
    task = make("zero_shot", labels=LABELS, multi_label=True)
    task.check_model(NLI)
    task.check_model(ENCODER)
    with pytest.raises(JobError, match="multi_label"):
        task.check_model(CHAT)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            info("BertForSequenceClassification", id2label={"0": "neg", "1": "pos"}),
            "classifier of its own labels (neg, pos)",
        ),
        (info("LlamaForCausalLM"), "no chat template"),
        (info("T5ForConditionalGeneration", is_encoder_decoder=True), "needs an NLI model"),
    ],
)
def test_a_model_that_can_not_be_asked_about_labels_is_refused(
    model: ModelInfo, reason: str
) -> None:
    with pytest.raises(JobError, match=re.escape(reason)):
        make("zero_shot", labels=LABELS).check_model(model)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "either `question` or `question_column`"),
        ({"question": "a?", "question_column": "q"}, "either `question` or `question_column`"),
        ({"question": " "}, "blank"),
        ({"question": "a?", "max_answer_tokens": 0}, "greater than or equal to 1"),
        ({"question": "a?", "instruction": "Answer."}, "once, where the question goes"),
    ],
)
def test_a_question_comes_from_one_place(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(reason)):
        make("answer", **options)


def test_a_question_column_is_read_beside_the_text() -> None:
    assert make("answer", question_column="q").extra_columns() == ("q",)
    assert make("answer", question="a?").extra_columns() == ()


def test_answer_refuses_models_and_options_that_do_not_go_together() -> None:
    for fits in (FINDER, CHAT):
        make("answer", question="a?").check_model(fits)
    with pytest.raises(JobError, match="question-answering head"):
        make("answer", question="a?").check_model(NLI)
    with pytest.raises(JobError, match="no chat template"):
        make("answer", question="a?").check_model(info("LlamaForCausalLM"))
    with pytest.raises(JobError, match="`null_answers` has no meaning"):
        make("answer", question="a?", null_answers=False).check_model(CHAT)
    with pytest.raises(JobError, match="`instruction` has no meaning"):
        make("answer", question="a?", instruction="{question}").check_model(FINDER)


def test_a_secret_in_the_job_file_is_refused_without_being_repeated() -> None:
    for key in ("open sesame", "${env:}", "x${env:KEY}", "${env:KEY}\n"):
        with pytest.raises(ValidationError, match="by name") as caught:
            make("redact", hash_key=key)
        assert all(key not in str(error["msg"]) for error in caught.value.errors())
    assert make("redact", hash_key="${env:KEY}").options.hash_key == "${env:KEY}"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"replace_with": "x", "hash_key": "${env:KEY}"}, "either `replace_with` or `hash_key`"),
        ({"labels": []}, "at least 1"),
        ({"labels": ["A", "A"]}, "`A` stands twice"),
        ({"min_score": 1.5}, "less than or equal to 1"),
    ],
)
def test_redact_refuses_what_it_could_not_do(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(reason)):
        make("redact", **options)


def test_redact_knows_the_models_labels_before_its_weights() -> None:
    make("redact", labels=["PER", "ID-CARD"]).check_model(TAGGER)
    for label in ("O", "B-PER", "LOC"):
        with pytest.raises(JobError, match=f"no label '{label}'.*ID-CARD, PER"):
            make("redact", labels=[label]).check_model(TAGGER)
    with pytest.raises(JobError, match="token-classification"):
        make("redact").check_model(NLI)


@pytest.mark.parametrize(
    ("config", "dim"),
    [({"hidden_size": 384}, 384), ({"d_model": 512}, 512), ({"dim": 768}, 768)],
)
def test_the_width_of_a_model_is_read_from_its_config(config: dict[str, Any], dim: int) -> None:
    assert width(config, reference="m") == dim


def test_embed_refuses_a_model_without_one_vector_a_token() -> None:
    task = make("embed")
    with pytest.raises(JobError, match="known once its model is"):
        task.output_type()
    task.bind(ENCODER)
    task.check_model(ENCODER)
    assert task.output_type().list_size == 7
    with pytest.raises(JobError, match="does not say how wide"):
        task.check_model(info("BertModel"))
    for other in (CHAT, info("T5ForConditionalGeneration", is_encoder_decoder=True)):
        with pytest.raises(JobError, match="needs an encoder"):
            task.check_model(other)
