"""Which architectures are taken, by transformers' ``model_type``, and how their batches are made.

Those that are named here are held to one contract by a test: a row's result is the same alone and
in any batch, and the same as transformers' own model gives for that row alone. Any other is refused
by name: most read more than text, and of the rest nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import JobError
from pipeline.models.folder import SCRATCH
from pipeline.models.heads import HeadName


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ENCODERS = _names(
    """
    albert bert bert-generation big_bird camembert convbert data2vec-text deberta deberta-v2
    distilbert electra embedding_gemma2_text ernie esm esmc eurobert flaubert fnet funnel gte
    ibert jina_embeddings_v3 longformer luke megatron-bert mobilebert modernbert mpnet
    nomic_bert nystromformer openai_privacy_filter rembert roberta roberta-prelayernorm
    roformer splinter squeezebert ultrabert xlm xlm-roberta xlm-roberta-xl xlnet xmod yoso
    """
)
DECODERS = _names(
    """
    afmoe apertus arcee aria_text axk1 axk2 bamba beam biogpt bitnet bloom codegen cohere
    cohere2 cohere2_moe ctrl cwm deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 diffllama
    doge dots1 ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon falcon_h1 falcon_mamba flex_olmo
    flint gemma gemma2 gemma3 gemma3_text gemma4 gemma4_text gemma4_unified gemma4_unified_text
    glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox
    gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa
    granitemoehybrid granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3
    hy_v4 hyperclovax inkling2_text inkling_text internlm3 iquestcoder jais2 jamba jetmoe
    kolibri1 laguna lfm2 lfm2_moe lfm3 llama llama4 llama4_text mamba mamba2 mellum
    mimo_v2_flash minicpm3 minimax minimax_m2 minimax_m3_vl_text ministral ministral3 mistral
    mistral4 mixtral modernbert-decoder mpt nanochat nemotron nemotron_h olmo olmo2 olmo3
    olmo_hybrid olmoe openai-gpt opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_5
    qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next recurrent_gemma seed_oss
    smollm3 solar_open stablelm starcoder2 vaultgemma xglm youtu zaya
    """
)
WRITERS = _names(
    """
    bart bigbird_pegasus blenderbot blenderbot-small led longt5 m2m_100 marian mbart mt5 mvp
    nllb-moe pegasus pegasus_x plbart prophetnet switch_transformers t5 t5gemma umt5
    """
)
READING = ENCODERS | DECODERS | WRITERS
TAKEN: Mapping[HeadName, frozenset[str]] = {
    "sequence-classification": READING,
    "token-classification": READING,
    "question-answering": READING,
    # Of Llama 4, the part that reads text alone has a name of its own.
    "encoder": (ENCODERS | DECODERS) - {"llama4"},
    "causal": DECODERS,
    "seq2seq": WRITERS | {SCRATCH},
}
# Padding changes their results: convolutions, pooling and Fourier transforms over the padded row,
# attention in blocks, states that run through it, positions that count it, or the last token of
# the row as its summary.
UNPADDED = _names(
    """
    big_bird bigbird_pegasus convbert deepseek_v4 fnet funnel nystromformer prophetnet 
    t5gemma xlnet yoso
    """
)
# Their positions are counted from the padding token's number on, so that there are so many fewer.
COUNTED_FROM_PADDING = _names(
    """
    camembert data2vec-text esm ibert longformer luke mpnet roberta roberta-prelayernorm
    xlm-roberta xlm-roberta-xl xmod
    """
)
# They only compare token types with each other, and without any leave that term out.
COMPARING_TYPES = frozenset({"funnel", "xlnet"})
# Without a mask they take the padding token for padding, also where a text holds it.
MASKED = frozenset({"flaubert", "t5gemma", "xlm"})
# Their modules read the weights of their linear layers, beside calling them.
WEIGHTS_READ = frozenset({"bamba", "falcon_mamba", "jamba", "mamba", "recurrent_gemma", SCRATCH})
# Decoders whose modules look at other tokens by their attention function alone and keep nothing of
# them but keys and values: they are written with by a loop of our own.
SLOTTED = _names(
    """
    apertus arcee biogpt cohere cwm dots1 ernie4_5 ernie4_5_moe exaone4 flex_olmo gemma glm glm4
    glm4_moe gpt-sw3 gpt2 gpt_bigcode gpt_neox granite granitemoe granitemoeshared helium
    hunyuan_v1_dense hunyuan_v1_moe hyperclovax internlm3 llama ministral ministral3 mistral mixtral
    nanochat olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe
    seed_oss smollm3 solar_open starcoder2
    """
)
# Their classifiers read what the config says, which may be the last token of the padded row.
SUMMARIZED = frozenset({"flaubert", "xlm"})
# Rotary embeddings that change with the longest text of a batch.
SCALED_ROTARY = ("dynamic", "longrope")

WHY = {
    "bros": "needs the box of each word on a page, beside the text",
    "canine": "reads characters without a tokenizer file (tokenizer.json)",
    "layoutlm": "needs the box of each word on a page, beside the text",
    "layoutlmv2": "needs an image, and the box of each word in it",
    "layoutlmv3": "needs an image, and the box of each word in it",
    "lilt": "needs the box of each word on a page, beside the text",
    "lxmert": "needs an image beside the text",
    "markuplm": "needs the place of each word in a page's HTML, beside the text",
    "mra": "gives constant results without a CUDA kernel that transformers does not ship",
    "perceiver": "reads bytes without a tokenizer file (tokenizer.json)",
    "reformer": "hashes tokens at random, so that its results differ from call to call",
    "roc_bert": "needs the shape and the sound of each character, beside the text",
    "rwkv": "changes its own weights when it is first called",
    "tapas": "needs the row and the column of each token in a table, beside the text",
    "xlstm": "keeps a state that does not fit the next batch",
}


def check_family(config: Mapping[str, Any], *, head: HeadName, reference: str) -> None:
    """Refuses an architecture whose results are not known to be right.

    Args:
        config: The content of the model's ``config.json``.
        head: As it is loaded.
        reference: How the job names the model.

    Raises:
        JobError: Naming the architecture.
    """
    name = config.get("model_type")
    if not isinstance(name, str):
        return  # of an old transformers, which loading has its own words for
    why = WHY.get(name)
    if name == "xmod" and not config.get("default_language"):
        why = "has a part for each language, and its config.json names no default_language"
    if name == "yoso" and config.get("use_expectation") is False:
        why = "hashes tokens at random (use_expectation: false), so that its results differ"
    landmarks = [config.get(key, 64) for key in ("num_landmarks", "segment_means_seq_len")]
    if name == "nystromformer" and landmarks[0] != landmarks[1]:
        why = "needs texts of one length (num_landmarks other than segment_means_seq_len)"
    if why is None and name not in TAKEN[head]:
        why = f"is not among those whose results for {head} were compared with transformers'"
    if why is not None:
        raise JobError(
            f"model {reference} is of the architecture {name}, which {why}",
            hint="Name a model of another architecture, such as "
            + {"causal": "llama or qwen3", "seq2seq": "t5 or bart"}.get(head, "bert or roberta"),
        )


def pads(config: Any) -> bool:
    """Whether rows of several lengths may share a batch, or only those of one length.

    Args:
        config: The module's, of transformers.
    """
    name = getattr(config, "model_type", None)
    if name in UNPADDED or (name in SUMMARIZED and config.summary_type != "first"):
        return False
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    layers = [rope, *(layer for layer in rope.values() if isinstance(layer, Mapping))]
    return not any(layer.get("rope_type") in SCALED_ROTARY for layer in layers)


def first_position(config: Any) -> int:
    """The number of a text's first position, told from a model's configuration.

    Args:
        config: Of transformers.
    """
    if config.model_type not in COUNTED_FROM_PADDING:
        return 0
    return int(config.pad_token_id or 0) + 1
