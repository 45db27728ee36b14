"""An ONNX file is known before anything starts: which is taken, and what is wrong with it."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import pytest
from helpers import hollow_model
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pipeline.errors import JobError
from pipeline.models.onnx.files import ONNX_FILE
from pipeline.models.onnx.graph import parse, read_graph
from pipeline.models.resolve import look_up

pytestmark = pytest.mark.unit

BERT = "BertForSequenceClassification"


def value(name: str, shape: Any, kind: int = TensorProto.INT64) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(*, nodes: Any = None, weights: Any = (), **model: Any) -> onnx.ModelProto:
    """A model that gives its input back, with what a test adds to it."""
    made = helper.make_graph(
        nodes or [helper.make_node("Identity", ["input_ids"], ["logits"])],
        "g",
        [value("input_ids", ["rows", "tokens"])],
        [value("logits", [None, 2])],
        initializer=list(weights),
    )
    return helper.make_model(made, **model)


def weight(name: str = "w", **outside: Any) -> TensorProto:
    tensor = helper.make_tensor(name, TensorProto.FLOAT, [2], [1.0, 2.0])
    if outside:
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, said in outside.items():
            tensor.external_data.add(key=key, value=str(said))
    return tensor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return hollow_model(tmp_path / "model", BERT, files=())


def put(folder: Path, made: onnx.ModelProto | bytes, name: str = "model.onnx") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    return path


def refusal(folder: Path) -> str:
    with pytest.raises(JobError) as caught:
        look_up(str(folder), weights=ONNX_FILE)
    said = str(caught.value)
    assert "\n" not in said
    assert caught.value.hint
    assert str(folder) in said
    return said


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.onnx"], "model.onnx"),
        (["onnx/model.onnx"], "onnx/model.onnx"),
        (["onnx/model.onnx", "model.onnx"], "model.onnx"),
        (["onnx/model_quantized.onnx"], "onnx/model_quantized.onnx"),
        (["onnx/model_quantized.onnx", "onnx/model_fp16.onnx", "onnx/model.onnx"],
         "onnx/model.onnx"),
        (["model_int8.onnx", "deep/er/model.onnx", "other/model.onnx"], "model_int8.onnx"),
    ],
)  # fmt: skip
def test_the_file_called_model_is_taken_or_else_the_only_one(names: list[str], chosen: str) -> None:
    assert ONNX_FILE.choose("m", ["config.json", *names]) == chosen


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], r"m has no ONNX file \(model\.onnx or onnx/model\.onnx\)"),
        (["other/model.onnx", "model.onnx.data", "model.onnx_data"], "has no ONNX file"),
        (["a.onnx", "onnx/b.onnx"], r"several ONNX files \(a\.onnx, onnx/b\.onnx\)"),
    ],
)
def test_a_folder_that_does_not_say_which_file_it_means_is_refused(
    names: list[str], said: str
) -> None:
    with pytest.raises(JobError, match=said) as caught:
        ONNX_FILE.choose("m", names)
    assert caught.value.hint


def test_a_folder_needs_no_other_weights_than_the_onnx_file(folder: Path) -> None:
    put(folder, graph(), "onnx/model.onnx")
    (folder / "pytorch_model.bin").write_bytes(b"never looked at")
    info = look_up(str(folder), weights=ONNX_FILE)
    assert info.file == "onnx/model.onnx"
    with pytest.raises(JobError, match="pickled"):
        look_up(str(folder))


def test_a_graph_says_what_it_takes_and_gives_and_what_it_is_made_of(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["w", "input_ids"], ["x"]),
        helper.make_node("Gelu", ["x"], ["logits"], domain="com.microsoft"),
    ]
    found = read_graph(put(tmp_path, graph(nodes=nodes, weights=[weight()])))
    assert [(v.name, v.kind, v.shape) for v in found.inputs] == [("input_ids", 7, (0, 0))]
    assert [(v.name, v.kind, v.shape) for v in found.outputs] == [("logits", 7, (0, 2))]
    assert found.operators == {("", "Gather"), ("com.microsoft", "Gelu")}
    assert found.outside == {}


def test_weights_that_an_old_file_lists_among_its_inputs_are_none(tmp_path: Path) -> None:
    made = graph(weights=[weight()])
    made.graph.input.append(value("w", [2], TensorProto.FLOAT))
    assert [v.name for v in read_graph(put(tmp_path, made)).inputs] == ["input_ids"]


def test_what_hides_in_branches_constants_and_functions_is_seen(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=weight("c", location="far")),
            helper.make_node("Odd", ["c"], ["y"], domain="odd"),
        ],
        "branch",
        [],
        [value("y", [2], TensorProto.FLOAT)],
    )
    branch = helper.make_node("If", ["input_ids"], ["logits"], then_branch=inner, else_branch=inner)
    function = helper.make_function(
        "own", "f", ["x"], ["y"], [helper.make_node("Deep", ["x"], ["y"], domain="odder")], []
    )
    call = helper.make_node("f", ["input_ids"], ["z"], domain="own")
    found = read_graph(put(tmp_path, graph(nodes=[branch, call], functions=[function])))
    assert found.operators == {("", "If"), ("", "Constant"), ("odd", "Odd"), ("odder", "Deep")}
    assert found.outside == {"far": 0}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "model.onnx is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "model.onnx is a pointer"),
        (b"hello, world", "model.onnx is no ONNX file"),
        (b"{}", "model.onnx is"),
        (b"\x00" * 64, "model.onnx is no ONNX file"),
        (b"\xff" * 64, "model.onnx is no ONNX file"),
        (onnx.ModelProto(ir_version=9).SerializeToString(), "holds no graph"),
    ],
)
def test_what_is_no_onnx_file_is_refused_by_name(folder: Path, content: bytes, said: str) -> None:
    put(folder, content)
    assert said in refusal(folder)


def test_a_file_that_is_cut_short_anywhere_is_refused(folder: Path) -> None:
    whole = graph(weights=[weight()]).SerializeToString()
    graph_starts = whole.index(b":")  # the tag of its graph; what comes before is its version
    for length in range(graph_starts + 1, len(whole) - 8, 3):
        put(folder, whole[:length])
        with pytest.raises(ValueError, match=r"model\.onnx is cut short"):
            ONNX_FILE.check(folder, "model.onnx")
    assert "model.onnx is cut short" in refusal(folder)


@given(st.data())
def test_no_broken_byte_makes_more_of_it_than_a_value_error(data: st.DataObject) -> None:
    whole = bytearray(graph(weights=[weight(location="x", offset=1)]).SerializeToString())
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=6)):
        whole[at] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        parse(bytes(whole))


def test_graphs_in_graphs_without_end_are_refused(folder: Path) -> None:
    inner = helper.make_graph([], "g", [], [])
    for _ in range(20):
        inner = helper.make_graph(
            [helper.make_node("If", ["x"], ["y"], then_branch=inner)], "g", [], []
        )
    put(folder, helper.make_model(inner))
    assert "nests graphs" in refusal(folder)


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "a/../../secret", "..", "", " ", "..\\secret", "/", "link"],
)
def test_weights_outside_of_the_folder_are_refused(folder: Path, location: str) -> None:
    (folder.parent / "secret").write_bytes(b"12345678")
    (folder / "link").symlink_to(folder.parent / "secret")
    put(folder, graph(weights=[weight(location=location)]))
    assert "which is not in its folder" in refusal(folder)


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx"])
def test_weights_in_a_file_of_their_own_are_looked_for_and_pinned(folder: Path, name: str) -> None:
    path = put(folder, graph(weights=[weight(location="w.data", offset=4, length=8)]), name)
    assert "has weights in 'w.data', which is not there" in refusal(folder)
    (path.parent / "w.data").write_bytes(b"0" * 11)
    assert "'w.data', which holds weights of" in refusal(folder)
    (path.parent / "w.data").write_bytes(b"0" * 12)
    first = look_up(str(folder), weights=ONNX_FILE).revision()
    (path.parent / "w.data").write_bytes(b"1" * 12)
    assert look_up(str(folder), weights=ONNX_FILE).revision() != first


@pytest.mark.parametrize(("key", "said"), [("offset", "x"), ("length", "1e3"), ("offset", "-")])
def test_nonsense_of_where_weights_are_is_refused(folder: Path, key: str, said: str) -> None:
    put(folder, graph(weights=[weight(location="w.data", **{key: said})]))
    assert "says nonsense of where its weights are" in refusal(folder)


def test_a_link_into_a_cache_beside_the_models_file_is_followed(
    folder: Path, tmp_path: Path
) -> None:
    # As the hub's cache keeps files: all links into one folder.
    blobs = tmp_path / "blobs"
    made = graph(weights=[weight(location="model.onnx_data", length=8)])
    put(blobs, made, "a1")
    (blobs / "b2").write_bytes(b"12345678")
    (folder / "model.onnx").symlink_to(blobs / "a1")
    (folder / "model.onnx_data").symlink_to(blobs / "b2")
    assert look_up(str(folder), weights=ONNX_FILE).file == "model.onnx"


@pytest.mark.parametrize("domain", ["ai.onnx.contrib", "com.example", "pkg.own"])
def test_operators_that_need_code_of_their_own_are_refused(folder: Path, domain: str) -> None:
    node = helper.make_node("Magic", ["input_ids"], ["logits"], domain=domain)
    put(folder, graph(nodes=[node]))
    said = refusal(folder)
    assert f"operators of its own ('{domain}.Magic')" in said
    assert "no model brings code along here" in said


def test_the_onnx_file_pins_its_own_revision_and_leaves_that_of_other_weights_alone(
    tmp_path: Path,
) -> None:
    folder = hollow_model(tmp_path / "model", BERT)
    plain = look_up(str(folder)).revision()
    put(folder, graph(), "onnx/model.onnx")
    assert look_up(str(folder)).revision() == plain
    first = look_up(str(folder), weights=ONNX_FILE).revision()
    assert first != plain
    (folder / "model.safetensors").unlink()
    assert look_up(str(folder), weights=ONNX_FILE).revision() == first
    put(folder, graph(weights=[weight()]), "onnx/model.onnx")
    second = look_up(str(folder), weights=ONNX_FILE).revision()
    assert second != first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "x"}}))
    assert look_up(str(folder), weights=ONNX_FILE).revision() not in (first, second)


def test_of_the_hub_only_the_chosen_file_is_fetched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    from pipeline.models.resolve import ModelInfo, fetch

    put(folder, graph(), "onnx/model.onnx")
    asked: dict[str, Any] = {}

    def download(name: str, **how: Any) -> str:
        asked.update(how)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = fetch(ModelInfo("org/m", {}, commit="c", weights=ONNX_FILE, file="onnx/model.onnx"))
    assert found == folder
    patterns = asked["allow_patterns"]
    assert patterns[:2] == ["onnx/model.onnx", "onnx/model.onnx_data*"]
    assert "*.json" in patterns
    assert not [one for one in patterns if "safetensors" in one]
