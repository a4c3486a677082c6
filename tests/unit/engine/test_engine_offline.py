"""The engine in a program: names, prompts, files that go on where they were."""

import importlib.util
import json
import os
import resource
from pathlib import Path

import pytest
import torch

import tuition
from tuition.books.books import open_books
from tuition.core.errors import (
    BusyError,
    CapacityError,
    DataError,
    NotFoundError,
    RequestError,
    SettingsError,
)
from tuition.core.lock import FileLock
from tuition.core.workspace import Workspace
from tuition.engine import runner_choice, torch_runner
from tuition.engine.engine import Engine
from tuition.engine.offline import generate_file
from tuition.engine.runner_choice import choose_runner
from tuition.engine.settings import EngineSettings
from tuition.model.decoder import Decoder
from tuition.model.folder import open_model
from tuition.model.save import save_model
from tuition.registry.registry import Registry
from tuition.runtime.device import choose_precision
from tuition.spec.shape import ModelShape
from tuition.tokenizer.encoder import TextEncoder
from tuition.tokenizer.training import train_bpe

SETTINGS = EngineSettings(runner="torch", device="cpu", precision="float32", cache_bytes="4MiB", threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_bpe(["to be or not to be, that is the question. " * 20], 280)
    shape = ModelShape(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2,
        head_dim=8, mlp_size=48, context_length=96,
    )  # fmt: skip
    decoder = Decoder(shape).initialize(0.3, torch.Generator().manual_seed(3))
    return save_model(
        tmp_path_factory.mktemp("models") / "tiny", decoder, shape, tokenizer, {}, dtype="float32"
    )


@pytest.fixture(scope="module")
def engine(folder: Path):
    with Engine(folder, settings=SETTINGS) as engine:
        yield engine


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path: Path) -> dict[str, dict]:
    return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}


def test_the_public_names_are_loaded_when_asked_for() -> None:
    assert issubclass(tuition.Engine, Engine), "the billed one"
    assert tuition.__version__
    with pytest.raises(AttributeError):
        _ = tuition.Motor


def test_completions_come_in_the_order_of_the_prompts(engine: Engine) -> None:
    prompts = [f"to be {i} " * (1 + i % 4) for i in range(12)]
    together = engine.generate(prompts, max_tokens=9, temperature=0)
    alone = [engine.generate(prompt, max_tokens=9, temperature=0)[0] for prompt in prompts]
    assert [done.text for done in together] == [done.text for done in alone]
    assert all(done.num_generated == 9 for done in together)


def test_text_is_the_decoded_tokens(engine: Engine) -> None:
    done = engine.generate("the question", max_tokens=30, temperature=1.0, seed=1)[0]
    assert done.text == engine.tokenizer.decode(done.token_ids)


def test_a_stream_is_the_reply_in_pieces_and_can_be_left(engine: Engine) -> None:
    whole = engine.generate("to be", max_tokens=12, temperature=0)[0]
    assert "".join(event.text for event in engine.stream("to be", max_tokens=12, temperature=0)) == whole.text
    next(iter(engine.stream("to be", max_tokens=40)))
    assert not engine.loop.has_work
    engine.loop.check()


def test_without_max_tokens_the_reply_fills_the_context(engine: Engine) -> None:
    done = engine.generate("to be", temperature=0, ignore_eos=True)[0]
    assert done.num_prompt_tokens + done.num_generated == engine.context_length


def test_wrong_fields_are_refused_by_name(engine: Engine) -> None:
    with pytest.raises(RequestError, match="temprature"):
        engine.generate("to be", temprature=1)
    with pytest.raises(RequestError, match="top_p"):
        engine.generate("to be", top_p=1.5)
    with pytest.raises(RequestError, match="stop_ids"):
        engine.generate("to be", stop_ids=[1 << 40])
    with pytest.raises(RequestError, match="wrong type"):
        engine.generate("to be", temperature="hot")
    with pytest.raises(CapacityError, match="96"):
        engine.generate([[1] * 97])
    with pytest.raises(RequestError, match="chat template"):
        engine.chat([{"role": "user", "content": "hello"}])


def test_text_that_cannot_fit_is_not_encoded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids of ten megabytes take more than a gigabyte."""
    text = "to be or not to be " * 10_000
    monkeypatch.setattr(TextEncoder, "encode", lambda *_, **__: pytest.fail("it was encoded"))
    problem = (
        r"a prompt of 190,000 characters, at least [\d,]+ tokens, needs [\d,]+ tokens of context, 96 are"
    )
    with pytest.raises(CapacityError, match=problem):
        engine.generate([text])
    with pytest.raises(CapacityError, match=problem):
        engine.encode([{"role": "user", "content": text}])


def test_a_registered_name_finds_its_model(folder: Path, workspace: Workspace) -> None:
    with open_books(workspace) as books:
        Registry(workspace, books).add("tiny", folder, digest=open_model(folder).digest(), files="linked")
    with Engine("tiny", settings=SETTINGS) as engine:
        assert engine.generate("to be", max_tokens=2)[0].num_generated == 2
    with pytest.raises(NotFoundError, match="did you mean 'tiny'"):
        Engine("tinny", settings=SETTINGS)


def test_every_step_is_told_to_the_listener(folder: Path) -> None:
    traces = []
    with Engine(folder, settings=SETTINGS, on_trace=traces.append) as engine:
        done = engine.generate(["to be", "or not"], max_tokens=5, ignore_eos=True)
    prompts = sum(one.num_prompt_tokens for one in done)
    useful = sum(work.num_tokens - work.num_wasted for trace in traces for work in trace.work)
    assert useful == prompts + 2 * (5 - 1)


def test_a_file_goes_on_where_it_was_stopped(engine: Engine, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"id": f"q{i}", "prompt": f"to be {i}"} for i in range(9)])
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    report = generate_file(engine, source, whole, max_tokens=6, temperature=0)
    assert (report.num_lines, report.num_done, report.num_reused, report.num_failed) == (9, 9, 0, 0)
    lines = whole.read_bytes().splitlines(keepends=True)
    broken.write_bytes(b"".join(lines[:4]) + lines[4][:20])  # killed while it wrote
    report = generate_file(engine, source, broken, max_tokens=6, temperature=0)
    assert (report.num_reused, report.num_done) == (4, 5)
    replies, again = read_lines(whole), read_lines(broken)
    requests = [row.pop("request") for row in replies.values()]
    requests += [again[name].pop("request") for name in list(again)[4:]]
    assert len(set(requests)) == 14, "each reply that was made names its request"
    assert {name: row | {"request": None} for name, row in again.items()} == {
        name: row | {"request": None} for name, row in replies.items()
    }


def test_replies_to_other_settings_are_never_mixed_in(engine: Engine, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "to be"}])
    target = tmp_path / "out.jsonl"
    generate_file(engine, source, target, max_tokens=2)
    with pytest.raises(DataError, match="other settings"):
        generate_file(engine, source, target, max_tokens=3)


def test_a_line_that_cannot_run_is_an_error_in_the_output_and_tried_again(
    engine: Engine, tmp_path: Path
) -> None:
    rows = [{"prompt": "to be " * 90, "max_tokens": 4}, {"prompt": "to be", "max_tokens": 4}]
    source, target = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    for reused in (0, 1):
        report = generate_file(engine, source, target)
        assert (report.num_failed, report.num_reused) == (1, reused)
        assert "tokens of context" in read_lines(target)["1"]["error"]
        assert len(target.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "a"}\n{"prompt": \n', "line 2.*not JSON"),
        ('{"prompt": "a"}\n["a"]\n', "line 2.*object with prompt"),
        ('{"prompt": "a", "tempo": 1}\n', "line 1.*tempo"),
        ('{"id": 1, "prompt": "a"}\n{"id": "1", "prompt": "b"}\n', "line 2.*twice"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_computed(
    engine: Engine, tmp_path: Path, text: str, said: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(text)
    with pytest.raises(DataError, match=said):
        generate_file(engine, source, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[" * 100_000, "line 1: is not JSON"),
        ('{"id": "\\ud800", "prompt": "a"}', "half of a surrogate pair"),
    ],
)
def test_a_hostile_line_is_named(engine: Engine, tmp_path: Path, line: str, problem: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(line + "\n")
    with pytest.raises(DataError, match=problem):
        generate_file(engine, source, tmp_path / "out.jsonl")


@pytest.mark.parametrize("kept", ['{"prompt": "mine"}\n', "my notes\n", "my notes", "[1]\n", "\n\n"])
def test_a_file_that_holds_anything_but_replies_is_never_overwritten(
    engine: Engine, tmp_path: Path, kept: str
) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"id": "a", "prompt": "to be", "max_tokens": 1}])
    before = source.read_bytes()
    with pytest.raises(DataError, match="is the file of prompts"):
        generate_file(engine, source, source)
    assert source.read_bytes() == before
    target = tmp_path / "mine.txt"
    target.write_text(kept)
    if kept.strip():
        with pytest.raises(DataError, match="not a reply of this program"):
            generate_file(engine, source, target)
        assert target.read_text() == kept
    else:
        assert generate_file(engine, source, target).num_done == 1


def test_a_target_that_cannot_be_written_is_named(engine: Engine, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "to be", "max_tokens": 1}])
    for target in (tmp_path, tmp_path / "missing" / "out.jsonl"):
        with pytest.raises(DataError, match="cannot be written"):
            generate_file(engine, source, target)


def test_auto_on_a_cpu_keeps_logits_apart(folder: Path) -> None:
    settings = EngineSettings(runner="torch", device="cpu", cache_bytes="4MiB", threads=1)
    with Engine(folder, settings=settings) as engine:
        assert "float32" in engine.runner.name
        logits = engine.generate("to be", max_tokens=1, temperature=0, logprobs=20)[0].logprobs[0].top
        assert len({logprob for _, logprob in logits}) == 20


def test_the_choice_of_a_runner_says_why(folder: Path) -> None:
    shape = open_model(folder).shape
    assert choose_runner(shape, EngineSettings(runner="torch")).kind == "torch"
    assert not choose_runner(shape, EngineSettings(runner="torch")).is_fallback
    choice = choose_runner(shape, EngineSettings(device="cpu"))
    assert choice.reason


@pytest.mark.parametrize("runner", ["torch", "native"])
def test_without_the_kernels_torch_is_taken_and_native_refused(
    folder: Path, runner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    shape = open_model(folder).shape
    if runner == "torch":
        choice = choose_runner(shape, EngineSettings(device="cpu"))
        assert (choice.kind, "not installed" in choice.reason, choice.is_fallback) == ("torch", True, True)
    else:
        with pytest.raises(SettingsError, match="not installed"):
            choose_runner(shape, EngineSettings(runner="native", device="cpu"))


def test_a_gpu_is_taken_by_torch_and_integers_are_refused_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is chosen where there is CUDA; the same code on a real one: tests/gpu."""
    monkeypatch.setattr(runner_choice, "device_kind", lambda wanted: "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    shape = open_model(folder).shape
    choice = choose_runner(shape, EngineSettings())
    assert (choice.kind, "cuda" in choice.reason) == ("torch", True)
    assert choose_precision("auto", torch.device("cuda")).dtype is torch.bfloat16
    for precision in ("int8", "int4"):
        with pytest.raises(SettingsError, match=r"float32, bf16 or auto here.*cuda device.*device cpu"):
            choose_runner(shape, EngineSettings(precision=precision))


def test_the_torch_runner_asks_runtime_what_a_device_has_free(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a card would be judged in two ways."""
    monkeypatch.setattr(torch_runner, "free_bytes", lambda device: 1_000)
    with pytest.raises(CapacityError) as caught:
        Engine(folder, settings=SETTINGS)
    assert caught.value.free == 1_000


def test_int8_without_the_native_runner_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="native"):
        Engine(folder, settings=EngineSettings(runner="torch", precision="int8"))


@pytest.mark.parametrize(
    "prompt", [[1, 2, "x"], [1, {"role": "user"}], [1.5], [True], None, {"a": 1}, 5], ids=repr
)
def test_what_is_no_prompt_is_refused_and_never_cut_to_fit(engine: Engine, prompt: object) -> None:
    with pytest.raises(RequestError, match="prompt"):
        engine.encode(prompt)  # type: ignore[arg-type]


def test_lines_of_wrong_types_are_errors_of_their_own(engine: Engine, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    bad = ['"prompt": [1, "x"]', '"prompt": null', '"messages": "x"', '"prompt": "a", "seed": 1e999']
    bad += ['"prompt": "a", "cache_salt": 5', '"prompt": "a", "priority": "zz"']
    bad += [
        '"prompt": "a", "ignore_eos": "no"',
        '"prompt": "a", "top_k": 1.5',
        '"prompt": "a", "max_tokens": true',
    ]
    source.write_text("".join(f"{{{line}}}\n" for line in [*bad, '"prompt": "be", "max_tokens": 1']))
    report = generate_file(engine, source, target)
    assert (report.num_failed, report.num_done) == (len(bad), 1)


def test_a_device_and_a_link_keep_their_places(engine: Engine, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "be", "max_tokens": 1}])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="cannot be written: it is not a regular file"):
        generate_file(engine, source, tmp_path / "pipe")
    assert not (tmp_path / "pipe").is_file()
    link, real = tmp_path / "link.jsonl", tmp_path / "real.jsonl"
    real.touch()
    link.symlink_to(real)
    generate_file(engine, source, link)
    assert link.is_symlink()
    assert len(read_lines(real)) == 1


def test_two_runs_never_write_into_one_file(engine, tmp_path: Path) -> None:
    source, target = write_lines(tmp_path / "in.jsonl", [{"prompt": "to be"}]), tmp_path / "out.jsonl"
    with FileLock(tmp_path / ".out.jsonl.lock"), pytest.raises(BusyError, match=r"out\.jsonl"):
        generate_file(engine, source, target, max_tokens=2)
    assert generate_file(engine, source, target, max_tokens=2).num_done == 1


def test_a_full_disk_says_what_is_billed_without_a_reply(engine: Engine, tmp_path: Path) -> None:
    """No file may grow beyond some bytes; afterwards the same command goes on where it was."""
    rows = [{"id": f"q{i}", "prompt": "to be " * (1 + i % 5), "max_tokens": 4 + i} for i in range(20)]
    source, target = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(DataError, match=r"could not be written \(File too large\); \d+ requests.*billed"):
            generate_file(engine, source, target, temperature=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not engine.loop.has_work
    written = target.read_bytes().count(b"\n")
    report = generate_file(engine, source, target, temperature=0)
    assert (report.num_reused, report.num_done) == (written, 20 - written)
    assert 0 < written < 20
    assert set(read_lines(target)) == {row["id"] for row in rows}
