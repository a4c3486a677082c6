"""Model folders: what is whole opens, what is damaged, changed or dangerous is refused by name."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tuition.core.errors import ModelError, ShapeError
from tuition.model.decoder import Decoder
from tuition.model.digest import weights_digest
from tuition.model.folder import open_model
from tuition.model.load import load_decoder
from tuition.model.save import save_model
from tuition.spec.shape import ModelShape
from tuition.tokenizer.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    config = {key: value for key, value in config.items() if value != "remove"}
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_what_was_saved_is_what_is_loaded(
    model_folder: Path, small_shape: ModelShape, bpe: Tokenizer
) -> None:
    folder = open_model(model_folder)
    assert folder.shape == small_shape
    assert folder.manifest is not None
    assert folder.manifest["run_id"] == "r1"
    assert folder.manifest["weights_digest"] == folder.digest()
    assert folder.tensor_names == tuple(small_shape.tensor_shapes())
    assert folder.tokenizer().eos_ids == bpe.eos_ids
    assert folder.tokenizer().encode("to be") == bpe.encode("to be")
    assert weights_digest(load_decoder(folder).state_dict().items()) == folder.digest()
    assert folder.format == "safetensors F32"


def test_a_full_disk_is_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("tuition.model.save.save_file", full)
    shape = ModelShape(
        vocab_size=32, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, mlp_size=32,
        context_length=16,
    )  # fmt: skip
    with pytest.raises(OSError, match="No space left"):
        save_model(tmp_path / "model", Decoder(shape).initialize(), shape, None)
    assert not (tmp_path / "model").exists()


def test_a_digest_does_not_depend_on_lossless_types_nor_on_order() -> None:
    tensors = [("b", torch.randn(70, 3).bfloat16()), ("a", torch.randn(5).bfloat16())]
    wide = [(name, tensor.float()) for name, tensor in reversed(tensors)]
    assert weights_digest(tensors) == weights_digest(wide)
    wide[0][1][0] += 1e-3
    assert weights_digest(tensors) != weights_digest(wide)
    assert weights_digest([("b", tensors[0][1].T), tensors[1]]) != weights_digest(tensors)


def test_weights_in_memory_do_not_follow_the_file(foreign_folder: Path) -> None:
    decoder = load_decoder(foreign_folder)
    before = weights_digest(decoder.state_dict().items())
    content = bytearray((foreign_folder / WEIGHTS).read_bytes())
    content[-1000:] = bytes(1000)
    (foreign_folder / WEIGHTS).write_bytes(content)
    assert weights_digest(decoder.state_dict().items()) == before


def test_a_changed_byte_in_any_file_refuses_the_load(model_folder: Path) -> None:
    """Also in files that hold no weights: they too decide what a model says."""
    listed = json.loads((model_folder / "tuition.json").read_text())["files"]
    assert {WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"} <= listed.keys()
    for name in listed:
        content = (model_folder / name).read_bytes()
        (model_folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ModelError, match="was changed after") as caught:
            open_model(model_folder)
        assert caught.value.path.name == name
        (model_folder / name).write_bytes(content)
    open_model(model_folder)
    for name in listed:
        (model_folder / name).rename(model_folder / "away.bak")
        with pytest.raises(ModelError):
            open_model(model_folder)
        (model_folder / "away.bak").rename(model_folder / name)


def test_a_file_that_was_put_beside_a_published_model_is_refused(model_folder: Path) -> None:
    (model_folder / "chat_template.jinja").write_text("{{ 'obey' }}")
    with pytest.raises(ModelError, match="is not listed"):
        open_model(model_folder)


def test_a_tokenizer_swapped_after_the_check_is_refused(model_folder: Path) -> None:
    folder = open_model(model_folder)
    config = json.loads((model_folder / "tokenizer_config.json").read_text())
    (model_folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "x"}))
    with pytest.raises(ModelError, match="was changed after"):
        folder.tokenizer()


def test_weights_swapped_after_the_check_are_not_used(model_folder: Path, tmp_path: Path) -> None:
    folder = open_model(model_folder)
    wanted = folder.digest()
    (tmp_path / "other").write_bytes((model_folder / WEIGHTS).read_bytes()[:-400] + bytes(400))
    os.replace(tmp_path / "other", model_folder / WEIGHTS)
    assert folder.digest() == wanted


REFUSED_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "gpt_neox"}, "known: llama, qwen2, qwen3, mistral"),
    ({"model_type": "remove"}, "model_type 'None' is unknown"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu', wanted silu"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "other heads"),
    ({"num_local_experts": 8}, "num_local_experts is 8"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ({"partial_rotary_factor": 0.5}, "partial rotary positions"),
    ({"sliding_window": 128}, "no sliding window"),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rotary positions of kind 'dynamic'"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0, "short_factor": [1]}}, "'short_factor'"),
    ({"rope_scaling": {"rope_type": "linear", "factor": -1}}, "factor is -1"),
    ({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}},
     "high_freq_factor is 1, wanted a number above low_freq_factor"),
    ({"hidden_size": "32"}, "hidden_size is '32'"),
    ({"hidden_size": True}, "hidden_size is True"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    ({"num_hidden_layers": 3}, "layers.2.input_layernorm.weight' is missing"),
    ({"num_key_value_heads": 3}, "a divisor of num_heads"),
    ({"vocab_size": -5}, "vocab_size is -5"),
    ({"rms_norm_eps": 1e400}, "Infinity"),
    ({"head_dim": 16}, "has shape"),
    ({"tie_word_embeddings": False}, "'lm_head.weight' is missing"),
    ({"attention_bias": True}, "q_proj.bias' is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED_CONFIGS)
def test_configs_that_we_would_compute_wrongly_are_refused(
    foreign_folder: Path, changes: dict[str, Any], message: str
) -> None:
    edit_config(foreign_folder, **changes)
    with pytest.raises(ModelError) as caught:
        open_model(foreign_folder)
    assert message in str(caught.value)


def test_missing_extra_and_misshapen_tensors_are_named(foreign_folder: Path) -> None:
    original = (foreign_folder / WEIGHTS).read_bytes()
    key = "model.layers.1.mlp.up_proj.weight"
    cases: list[tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = [
        (lambda tensors: tensors.pop(key), "is missing"),
        (lambda tensors: tensors.update({key: tensors[key].T.contiguous()}), "config.json says"),
        (lambda tensors: tensors.update({"score.weight": torch.zeros(2)}), "'score.weight' for one"),
        (
            lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}),
            "stored with other values",
        ),
    ]
    for change, message in cases:
        (foreign_folder / WEIGHTS).write_bytes(original)
        edit_weights(foreign_folder, change)
        with pytest.raises(ModelError) as caught:
            open_model(foreign_folder)
        assert message in str(caught.value)


def test_tensors_that_follow_from_the_config_may_be_there(foreign_folder: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    edit_weights(foreign_folder, add)
    assert open_model(foreign_folder).shape.tied_head


def test_integers_are_no_weights(foreign_folder: Path) -> None:
    edit_weights(foreign_folder, lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int32)}))
    with pytest.raises(ModelError, match="has type I32"):
        load_decoder(foreign_folder)


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def is_refused(path: Path) -> bool:
    try:
        open_model(path)
    except ModelError:
        return True
    return False


def test_damaged_safetensors_are_refused_before_any_tensor_is_used(foreign_folder: Path) -> None:
    good = (foreign_folder / WEIGHTS).read_bytes()
    header, data = header_of(good)
    first = next(name for name in header if name != "__metadata__")

    def changed(**entry: Any) -> bytes:
        return with_header({**header, first: {**header[first], **entry}}, data)

    start, end = header[first]["data_offsets"]
    damaged = {
        "empty": b"",
        "short": good[:5],
        "truncated": good[:-7],
        "longer": good + b"xx",
        "huge header": struct.pack("<Q", 2**62) + good[8:],
        "no JSON": with_header(b"{nonsense", data),
        "deep JSON": with_header(b'{"a":' * 100_000, data),
        "a list": with_header([], data),
        "key twice": with_header(b'{"a":1,"a":2}', data),
        "negative offset": changed(data_offsets=[-start - 4, end]),
        "offset past the end": changed(data_offsets=[start, end + 4]),
        "overlap": changed(data_offsets=[start + 4, end + 4]),
        "float shape": changed(shape=[1.5]),
        "huge shape": changed(shape=[2**40, 2**40]),
        "negative shape": changed(shape=[-1, -32]),
        "unknown type": changed(dtype="F31"),
        "type of other width": changed(dtype="F64"),
        "no entry": with_header({**header, first: 7}, data),
    }
    (foreign_folder / WEIGHTS).write_bytes(damaged["truncated"])
    with pytest.raises(ModelError, match=rf"ends at byte {len(good):,}, the file has {len(good) - 7:,}"):
        open_model(foreign_folder)
    for name, content in damaged.items():
        (foreign_folder / WEIGHTS).write_bytes(content)
        if not is_refused(foreign_folder):
            pytest.fail(f"{name}: was opened")


def test_an_index_may_not_lead_out_of_the_folder(foreign_folder: Path, tmp_path: Path) -> None:
    shutil.copy(foreign_folder / WEIGHTS, tmp_path / "outside.safetensors")
    names = [name for name in header_of((foreign_folder / WEIGHTS).read_bytes())[0] if name != "__metadata__"]
    index = foreign_folder / "model.safetensors.index.json"
    for place in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), "..", "a\x00b.safetensors",
                  "x/../../outside.safetensors", "model.bin", ".", "", 5, None):  # fmt: skip
        index.write_text(json.dumps({"weight_map": dict.fromkeys(names, place)}))
        with pytest.raises(ModelError):
            open_model(foreign_folder)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, WEIGHTS)}))
    open_model(foreign_folder)
    index.write_text(json.dumps({"weight_map": dict.fromkeys([*names, "more"], WEIGHTS)}))
    with pytest.raises(ModelError, match="lacks tensor 'more'"):
        open_model(foreign_folder)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names[1:], WEIGHTS)}))
    with pytest.raises(ModelError, match="which the index does not put there"):
        open_model(foreign_folder)


def test_links_may_stay_inside_and_may_not_lead_out(foreign_folder: Path, tmp_path: Path) -> None:
    (foreign_folder / WEIGHTS).rename(foreign_folder / "blob")
    (foreign_folder / WEIGHTS).symlink_to("blob")
    open_model(foreign_folder)
    (foreign_folder / WEIGHTS).unlink()
    (foreign_folder / "blob").rename(tmp_path / "blob")
    (foreign_folder / WEIGHTS).symlink_to(tmp_path / "blob")
    with pytest.raises(ModelError, match="leads out of the folder"):
        open_model(foreign_folder)
    (foreign_folder / WEIGHTS).unlink()
    (foreign_folder / WEIGHTS).symlink_to(WEIGHTS)
    with pytest.raises(ModelError):
        open_model(foreign_folder)


def test_a_snapshot_of_the_hub_cache_opens(foreign_folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(foreign_folder.iterdir())):
        path.rename(repository / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert open_model(snapshot).tensor("norm.weight").shape == (32,)


def test_a_pipe_in_place_of_a_file_does_not_hang(foreign_folder: Path) -> None:
    (foreign_folder / WEIGHTS).unlink()
    os.mkfifo(foreign_folder / WEIGHTS)
    with pytest.raises(ModelError, match="not a regular file"):
        open_model(foreign_folder)


UNSAFE = ["pytorch_model.bin", "weights.pt", "model.pth", "model.pkl", "program.pt2", "model.ckpt",
          "a.joblib", "array.npy", "rank0.distcp", "config.yaml"]  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE)
def test_weights_that_could_run_code_are_refused_by_name(foreign_folder: Path, name: str) -> None:
    """As the only weights, or as the path itself."""
    (foreign_folder / WEIGHTS).unlink()
    (foreign_folder / name).write_bytes(b"\x80\x04cos\nsystem\n")
    for path in (foreign_folder, foreign_folder / name):
        with pytest.raises(ModelError, match="can run code when it is loaded") as caught:
            open_model(path)
        assert caught.value.path.name == name


def visit(folder: Path, sentinel: Path) -> str:
    """Load the model in every way there is, offer every file as a model; say whether anything of it ran."""
    model = open_model(folder)
    load_decoder(model)
    model.tokenizer().encode("to be")
    for path in sorted(folder.iterdir()):
        is_refused(path)
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    return "ran" if sentinel.exists() or any(file.startswith(str(folder)) for file in files) else "clean"


def lay_bait(folder: Path, sentinel: Path) -> bytes:
    """Code, pickles and hooks beside the weights; returns one pickle."""
    code = f"open({str(sentinel)!r}, 'w').close()\n"
    edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"}, custom_pipelines={})
    for name in ("modeling_evil.py", "setup.py", "__init__.py", "conftest.py", "sitecustomize.py"):
        (folder / name).write_text(code)
    pickled = b"cbuiltins\nexec\n(V" + code.strip().encode() + b"\ntR."
    for name in ("pytorch_model.bin", "weights.pt", "a.pkl", "b.npy", "c.joblib"):
        (folder / name).write_bytes(pickled)
    return pickled


def test_nothing_in_a_folder_is_executed(foreign_folder: Path, tmp_path: Path) -> None:
    """Neither from weights that could run code nor from modules that lie beside them."""
    sentinel = tmp_path / "sentinel"
    pickled = lay_bait(foreign_folder, sentinel)
    assert visit(foreign_folder, sentinel) == "clean"
    pickle.loads(pickled)  # noqa: S301  (our own bytes: the bait is live)
    assert visit(foreign_folder, sentinel) == "ran"


@pytest.mark.slow
def test_nothing_in_a_folder_is_executed_without_asserts(foreign_folder: Path, tmp_path: Path) -> None:
    """The same under -O, where a check by `assert` would be gone."""
    sentinel = tmp_path / "sentinel"
    lay_bait(foreign_folder, sentinel)
    program = (
        "import importlib.util, sys; from pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('bait', {__file__!r})\n"
        "bait = importlib.util.module_from_spec(spec); spec.loader.exec_module(bait)\n"
        "print(bait.visit(Path(sys.argv[1]), Path(sys.argv[2])), __debug__)"
    )
    command = [sys.executable, "-O", "-c", program, str(foreign_folder), str(sentinel)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert ran.stdout.strip() == "clean False", ran.stderr


def test_paths_that_are_no_models_are_refused(tmp_path: Path) -> None:
    for name in ("nowhere", "empty", "text.txt"):
        path = tmp_path / name
        if name == "empty":
            path.mkdir()
        if name == "text.txt":
            path.write_text("hello")
        with pytest.raises(ModelError):
            open_model(path)


def test_saving_refuses_what_is_there_and_what_does_not_fit(
    model_folder: Path, small_shape: ModelShape, tmp_path: Path
) -> None:
    decoder = Decoder(small_shape)
    with pytest.raises(ModelError, match="exists already"):
        save_model(model_folder, decoder, small_shape, None)
    tensors = decoder.state_dict()
    tensors.pop("norm.weight")
    with pytest.raises(ShapeError, match="exactly the tensors"):
        save_model(tmp_path / "new", tensors, small_shape, None)
    with pytest.raises(ShapeError, match="q/k norm"):
        save_model(tmp_path / "new", decoder, small_shape, None, family="qwen3")
    assert not (tmp_path / "new").exists()
