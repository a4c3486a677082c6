"""`tuition models` with adapters: each is tied to its base, by name and by digest."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tuition.books.books import open_books
from tuition.cli.main import FAILURE, USAGE, main
from tuition.core.workspace import Workspace
from tuition.model.adapter import Adapter
from tuition.model.adapter_folder import save_adapter
from tuition.model.adapter_settings import AdapterSettings, adaptable
from tuition.model.context import DenseContext
from tuition.model.decoder import Decoder
from tuition.model.folder import open_model
from tuition.model.load import load_decoder
from tuition.model.lora import merged_tensors
from tuition.model.save import save_model
from tuition.registry.lineage import Lineage
from tuition.registry.registry import Registry, Version
from tuition.spec.shape import ModelShape
from tuition.tokenizer.training import train_bpe

BILL = {"wall_ns": 7, "energy_uj": None, "energy_method": None, "cost_nusd": 3}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny_shape: ModelShape) -> dict[str, Path]:
    """Two models of one shape with other weights, one of another shape."""
    root = tmp_path_factory.mktemp("bases")
    tokenizer = train_bpe(["the cat sat on the mat"] * 20, tiny_shape.vocab_size)
    made = {}
    for seed, name in enumerate(("first", "second", "wide")):
        shape = replace(tiny_shape, mlp_size=96) if name == "wide" else tiny_shape
        weights = Decoder(shape).initialize(std=0.2, generator=torch.Generator().manual_seed(seed))
        made[name] = save_model(root / name, weights, shape, tokenizer, dtype="float32")
    return made


def random_adapter(source: Path, **more: str | None) -> Adapter:
    shape = open_model(source).shape
    drawn = np.random.default_rng(5)
    pairs = {}
    for name in adaptable(shape):
        outputs, inputs = shape.tensor_shapes()[name]
        down, up = drawn.normal(size=(4, inputs)), drawn.normal(size=(outputs, 4))
        pairs[name] = (down.astype(np.float32) / 8, up.astype(np.float32) / 8)
    return Adapter(AdapterSettings(rank=4, alpha=8.0), pairs, **more)


@pytest.fixture
def adapters(tmp_path: Path, bases: dict[str, Path]) -> dict[str, Path]:
    """As peft leaves one (it names a base, no digest), and as we do."""
    first = open_model(bases["first"])
    theirs = save_adapter(tmp_path / "theirs", random_adapter(bases["first"], base="acme/first"), first)
    (theirs / "tuition.json").unlink()
    adapter = random_adapter(bases["first"], base="elsewhere@4", base_digest=first.digest())
    ours = save_adapter(tmp_path / "ours", adapter, first, {"bill": BILL, "lineage": {"recipe": "finetune"}})
    return {"theirs": theirs, "ours": ours}


@pytest.fixture
def filled(workspace: Workspace, bases: dict[str, Path], adapters: dict[str, Path]) -> Workspace:
    """The base `first` and its adapter `support`."""
    assert main(["models", "add", "first", str(bases["first"])]) == 0
    assert main(["models", "add", "support", str(adapters["ours"])]) == 0
    return workspace


def registered(workspace: Workspace) -> dict[str, Version]:
    with open_books(workspace) as books:
        return {version.reference: version for version in Registry(workspace, books).list()}


def test_an_adapter_of_ours_finds_its_base_by_digest_and_keeps_its_bill(filled: Workspace) -> None:
    version = registered(filled)["support@1"]
    assert version.kind == "adapter"
    assert version.lineage.parent == "first@1"
    assert version.lineage.parent_digest == registered(filled)["first@1"].digest
    assert version.lineage.bill == BILL
    assert version.lineage.recipe == "finetune"


def test_a_merged_model_asks_for_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "merge", "support"]) == USAGE
    assert capsys.readouterr().err == "tuition: --name: nothing given, wanted what to call the merged model\n"


def test_an_adapter_of_peft_asks_for_its_base(
    workspace: Workspace,
    bases: dict[str, Path],
    adapters: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    add = ["models", "add", "legal", str(adapters["theirs"])]
    assert main(add) == USAGE
    assert "--base MODEL" in (told := capsys.readouterr().err)
    assert "'acme/first'" in told
    assert main(["models", "add", "small", str(bases["first"])]) == 0
    assert main(add) == USAGE  # another name: not guessed
    assert main([*add, "--base", "small"]) == 0
    assert registered(workspace)["legal@1"].lineage.parent == "small@1"
    with open_books(workspace) as books:
        registry = Registry(workspace, books)
        digest = open_model(bases["second"]).digest()
        lineage = Lineage(source="hf:acme/first@0123abc")
        registry.add("downloaded", bases["second"], digest=digest, lineage=lineage)
    capsys.readouterr()
    assert main(add) == 0  # by the name that it was downloaded under
    assert "by its name: downloaded@1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        ("second", "the adapter was trained with"),
        ("wide", "adapter of another base, layers.0.mlp.gate.weight"),
        ("support", "this is an adapter"),
    ],
)
def test_another_base_is_refused_in_one_line(
    filled: Workspace,
    bases: dict[str, Path],
    adapters: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    base: str,
    problem: str,
) -> None:
    for name in ("second", "wide"):
        assert main(["models", "add", name, str(bases[name])]) == 0
    capsys.readouterr()
    before = registered(filled)
    assert main(["models", "add", "wrong", str(adapters["ours"]), "--base", base]) != 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert problem in told[0]
    assert registered(filled) == before


def test_a_model_takes_no_base(
    filled: Workspace, bases: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "add", "other", str(bases["second"]), "--base", "first"]) == USAGE
    assert "only an adapter has a base" in capsys.readouterr().err


def test_list_and_show_tell_what_an_adapter_is(filled: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["models"]) == 0
    assert "support@1  adapter of first@1" in capsys.readouterr().out
    assert main(["models", "list", "--json"]) == 0
    row = next(row for row in map(json.loads, capsys.readouterr().out.splitlines()) if row["base"])
    assert (row["name"], row["kind"], row["base"], row["context_length"]) == (
        "support",
        "adapter",
        "first@1",
        64,
    )
    assert row["num_parameters"] == random_adapter(registered(filled)["first@1"].path).num_parameters
    assert main(["models", "show", "support", "--check"]) == 0
    told = capsys.readouterr().out
    for words in (
        "adapter of        first@1",
        "rank 4, alpha 8, plain scale 2",
        "every file reads",
        "finetune",
    ):
        assert words in told


def test_a_base_that_adapters_need_stays(filled: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["models", "remove", "first@1"]) == USAGE
    assert "the adapters that need it: support@1" in capsys.readouterr().err
    assert {*registered(filled)} == {"first@1", "support@1"}


def test_a_base_goes_with_its_adapters_where_that_is_meant(
    filled: Workspace,
    bases: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["models", "add", "again", str(bases["first"])]) == 0
    assert main(["models", "remove", "again@1"]) == 0  # the adapter has its base still
    terminal = io.StringIO("no\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    capsys.readouterr()
    assert main(["models", "remove", "first"]) == 1
    assert (
        "the only version of first (first@1), and the adapters that need it: support@1"
        in capsys.readouterr().out
    )
    assert main(["models", "remove", "first", "--yes"]) == 0
    assert registered(filled) == {}


def test_an_adapter_uses_the_same_weights_under_another_name(
    filled: Workspace, bases: dict[str, Path]
) -> None:
    assert main(["models", "add", "again", str(bases["first"])]) == 0
    assert main(["models", "remove", "first", "--yes"]) == 0
    with open_books(filled) as books:
        registry = Registry(filled, books)
        assert registry.base_of(registry.get("support")).reference == "again@1"


def test_a_linked_base_that_has_changed_is_found_by_its_digest(
    workspace: Workspace,
    bases: dict[str, Path],
    adapters: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    linked = shutil.copytree(bases["first"], tmp_path / "linked")
    (linked / "tuition.json").unlink()
    assert main(["models", "add", "first", str(linked), "--link"]) == 0
    assert main(["models", "add", "support", str(adapters["ours"])]) == 0
    shutil.copy(bases["second"] / "model.safetensors", linked)
    for verb in (["merge", "support", "--name", "merged"], ["show", "support", "--check"]):
        capsys.readouterr()
        assert main(["models", *verb]) == FAILURE
        assert "digest" in capsys.readouterr().err
    assert "merged@1" not in registered(workspace)


@torch.no_grad()
def test_a_merged_model_computes_what_base_and_adapter_do(
    filled: Workspace, bases: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["models", "merge", "support", "--name", "plain"]) == 0
    assert "plain@1 is first@1 with support@1 merged into it" in capsys.readouterr().out
    made, source = registered(filled)["plain@1"], registered(filled)["support@1"]
    assert made.kind == "model"
    assert (made.lineage.parent, made.lineage.adapter) == ("first@1", "support@1")
    assert made.lineage.adapter_digest == source.digest
    assert json.loads((made.path / "tuition.json").read_text())["bill"] == BILL
    ids, context = torch.arange(20)[None], DenseContext.of_length(20)
    base, unmerged = open_model(bases["first"]), random_adapter(bases["first"])
    wanted = Decoder(base.shape)
    wanted.load_state_dict(dict(merged_tensors(base, unmerged)))
    got = load_decoder(made.path)
    torch.testing.assert_close(got(ids, context), wanted(ids, context), rtol=0, atol=1e-5)
    assert main(["models", "remove", "first", "--yes"]) == 0
    assert {*registered(filled)} == {"plain@1"}  # it needs neither


def test_merging_can_round_and_says_so(filled: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "merge", "support", "--name", "small", "--save-as", "bfloat16"]) == 0
    assert "rounded to bfloat16" in capsys.readouterr().out
    assert open_model(registered(filled)["small@1"].path).format == "safetensors BF16"


def test_only_an_adapter_can_be_merged(filled: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "merge", "first", "--name", "plain"]) == FAILURE
    assert "no adapter named 'first'; known: support@1" in capsys.readouterr().err
