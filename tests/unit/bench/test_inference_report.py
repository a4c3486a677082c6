"""The arithmetic of bench/inference.py: what becomes of rows, and what is read from other programs."""

import importlib
import json
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.model.folder import open_model

BENCH = Path(__file__).resolve().parents[3] / "bench"


def load(name: str) -> ModuleType:
    """A module of bench/peers, as bench/inference.py imports it."""
    sys.path.insert(0, str(BENCH))
    try:
        return importlib.import_module(f"peers.{name}")
    finally:
        sys.path.remove(str(BENCH))


report, protocol, llama, process, install, targets = map(
    load, ("report", "task", "llama", "process", "install", "targets")
)
vllm_files, stories = map(load, ("vllm_files", "stories"))


def row(side: str, rate: float, turn: int = 0, **changes: Any) -> dict[str, Any]:
    return {"model": "m", "precision": "int8", "side": side, "round": turn, "what": "decode", "batch": 1,
            "prompt": 128, "generate": 128, "tokens_per_s": rate} | changes  # fmt: skip


def task(**changes: Any) -> Any:
    fields = {"model": "m.gguf", "precision": "int8", "what": ("decode", "prefill"), "threads": 2,
              "vocab_size": 1_000}  # fmt: skip
    return protocol.Task(**fields | changes)


def test_one_slow_round_does_not_move_the_median() -> None:
    rows = [row("tuition", rate, turn) for turn, rate in enumerate((100, 101, 5, 99, 102))]
    (found,) = report.summarise(rows)
    assert (found.median, found.low, found.high, found.rounds) == (100, 5, 102, 5)


def test_sides_are_compared_only_over_the_same_work() -> None:
    rows = [row("tuition", 300.0), row("llama.cpp", 100.0), row("llama.cpp", 50.0, batch=16)]
    compared = report.ratios(report.summarise(rows))
    assert list(compared.values()) == [3.0]


def test_a_shorter_start_is_a_ratio_above_one() -> None:
    rows = [
        row(side, 0, what="start", seconds=seconds)
        for side, seconds in (("tuition", 2.0), ("llama.cpp", 3.0))
    ]
    assert list(report.ratios(report.summarise(rows)).values()) == [1.5]


def test_bits_are_equal_within_the_tolerance_and_no_further() -> None:
    assert report.equal_bits(8.51, 8.60)
    assert not report.equal_bits(5.0, 5.34)


def test_unequal_bits_stand_in_the_table() -> None:
    summaries = report.summarise([row("tuition", 2.0), row("llama.cpp", 1.0)])
    lines = report.table(summaries, {("m", "int8", "tuition"): 8.5, ("m", "int8", "llama.cpp"): 9.5})
    assert "9.50 (unequal)" in lines[2]
    assert "2.00x" in lines[2]


def test_a_share_is_of_the_limit_of_the_same_round() -> None:
    rows = []
    for turn, speed in enumerate((1.0, 2.0)):  # the machine was twice as fast in the second round
        rows.append(row("tuition", 1, turn, bytes_per_s=80.0 * speed))
        rows.append(row("tuition", 1, turn, what="limits", read_bytes_per_s=100.0 * speed,
                        matrix_ops_per_s={"int8": 1_000.0 * speed}))  # fmt: skip
        rows.append(row("tuition", 1, turn, what="prefill", batch=None, flops_per_s=500.0 * speed))
    shares = {each["of"]: each["share"] for each in report.shares(rows)}
    assert shares == {"memory bandwidth": pytest.approx(0.8), "int8 matrix rate": pytest.approx(0.5)}


def test_a_larger_batch_is_not_held_to_the_memory() -> None:
    rows = [row("tuition", 1, batch=16, bytes_per_s=80.0),
            row("tuition", 1, what="limits", read_bytes_per_s=100.0, matrix_ops_per_s={})]  # fmt: skip
    assert report.shares(rows) == []


def test_rows_of_llama_cpp_are_read_from_its_json() -> None:
    line = {"pp": 128, "tg": 128, "pl": 16, "t_pp": 2.5, "speed_pp": 819.2, "speed_tg": 207.5}
    found = llama.read_batched("build: 1\n" + json.dumps(line) + "\n", task(), 16)
    assert (found["tokens_per_s"], found["first_token_s"], found["batch"]) == (207.5, 2.5, 16)
    bench = [{"n_prompt": 512, "n_gen": 0, "samples_ts": [700.0, 750.0, 10.0]},
             {"n_prompt": 0, "n_gen": 128, "samples_ts": [80.0]}]  # fmt: skip
    (prefill,) = llama.read_bench(json.dumps(bench))
    assert (prefill["prompt"], prefill["tokens_per_s"]) == (512, 700.0)


def test_an_output_without_the_row_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(process.ProcessError, match="no row for batch 4"):
        llama.read_batched("error: out of memory", task(), 4)


def test_quality_of_llama_cpp_is_read_with_its_signs() -> None:
    text = (
        "Mean PPL(Q)                   :  20.512345 ±   0.300000\n"
        "Mean PPL(base)                :  20.600000 ±   0.300000\n"
        "Mean ln(PPL(Q)/PPL(base))     :  -0.004264 ±   0.001000\n"
        "Mean    KLD:   0.000312 ±   0.000010\n"
    )
    found = llama.read_quality(text)
    assert found == {"perplexity": 20.512345, "base_perplexity": 20.6, "log_ratio": -0.004264, "kl": 0.000312}
    with pytest.raises(process.ProcessError, match="kl"):
        llama.read_quality(text.rsplit("\n", 2)[0])


def test_a_task_and_an_answer_arrive_as_they_were_sent(capsys: pytest.CaptureFixture[str]) -> None:
    sent = task(batches=(1, 16), options={"eager": True})
    assert protocol.read_task(["worker", sent.to_json()]) == sent
    answer = protocol.Answer([{"what": "prefill", "tokens_per_s": 1.5}], {"runner": "r"})
    protocol.tell(answer)
    print("noise of a library at its exit")
    assert protocol.hear(capsys.readouterr().out) == answer


def test_a_silent_process_is_an_error() -> None:
    with pytest.raises(ValueError, match="without an answer"):
        protocol.hear("Segmentation fault")


def test_decoding_is_the_time_beyond_the_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(protocol.time, "perf_counter", lambda: now[0])

    def generate(prompts: list[list[int]], tokens: int) -> None:
        now[0] += 0.001 * sum(map(len, prompts)) + 0.01 * (
            tokens - 1
        )  # 10 ms per step, 1 ms per prompt token

    rows = protocol.measure_generate(task(batches=(4,), generate=101, prefill=(200,)), generate, 0.0)
    assert rows[0]["tokens_per_s"] == pytest.approx(400)
    assert rows[0]["first_token_s"] == pytest.approx(4 * 0.128)
    assert rows[1]["tokens_per_s"] == pytest.approx(1_000)


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(1, 200), st.integers(8, 200_000), st.integers(-5, 10**9))
def test_random_prompts_fit_the_vocabulary_and_repeat_with_their_seed(
    count: int, length: int, vocab: int, seed: int
) -> None:
    prompts = protocol.random_prompts(count, length, vocab, seed)
    assert prompts == protocol.random_prompts(count, length, vocab, seed)
    assert [len(prompt) for prompt in prompts] == [length] * count
    assert all(0 <= token < vocab for prompt in prompts for token in prompt)


def test_a_process_reports_its_own_memory_and_failure() -> None:
    grown = process.run_process((sys.executable, "-c", "x = b'1' * 200_000_000; print(len(x))"))
    assert grown.stdout.strip() == "200000000"
    assert grown.peak_bytes > 200_000_000
    with pytest.raises(process.ProcessError, match=r"ended with 3.*the reason"):
        process.run_process(
            (sys.executable, "-c", "import sys; print('the reason', file=sys.stderr); sys.exit(3)")
        )
    with pytest.raises(process.ProcessError, match="no-such-program"):
        process.run_process(("no-such-program",))


def test_the_tiles_of_llama_cpp_are_mended_once_and_only_where_known(tmp_path: Path) -> None:
    source = tmp_path / "mmq.cpp"
    source.write_text("    tc.rows[7] = 16;\n\n    _tile_loadconfig(&tc);\n    done = true;\n")
    install.initialise_tiles_whole(source)
    mended = source.read_text()
    assert mended.index("memory") < mended.index("_tile_loadconfig")
    install.initialise_tiles_whole(source)
    assert source.read_text() == mended
    source.write_text("something new\n")
    assert install.initialise_tiles_whole(source).startswith("not mended: mmq.cpp")
    assert source.read_text() == "something new\n"


def test_what_a_row_lacks_is_not_summed_up() -> None:
    rows = [
        row("tuition", 2.0, first_token_s=0.5, python_share=0.03),
        row("llama.cpp", 1.0, first_token_s=1.0),
    ]
    found = {(each.figure.column, each.side): each.median for each in report.summarise(rows)}
    assert found["python_share", "tuition"] == 0.03
    assert ("python_share", "llama.cpp") not in found
    compared = {
        figure.column: ratio for (_, figure, _), ratio in report.ratios(report.summarise(rows)).items()
    }
    assert compared == {"tokens_per_s": 2.0, "first_token_s": 2.0}  # sooner by half, faster by twice


def test_less_memory_is_a_ratio_above_one() -> None:
    rows = [row(side, 0, what="memory", tokens_per_s=None, peak_bytes=size)
            for side, size in (("tuition", 200), ("llama.cpp", 300))]  # fmt: skip
    assert list(report.ratios(report.summarise(rows)).values()) == [1.5]


def verdict(rows: list[dict[str, Any]], **changes: Any) -> Any:
    fields = {"row": "r", "kind": "ratio", "bound": 1.6, "model": "m", "precisions": ("int8",),
              "what": "decode", "batch": 1, "peer": "llama.cpp"}  # fmt: skip
    (found,) = targets.judge(
        report.summarise(rows), report.shares(rows), [targets.Target(**fields | changes)]
    )
    return found


@pytest.mark.parametrize(("ours", "outcome"), [(160.0, "met"), (159.0, "missed")])
def test_a_ratio_is_held_to_its_bound(ours: float, outcome: str) -> None:
    assert verdict([row("tuition", ours), row("llama.cpp", 100.0)]).outcome == outcome


def test_the_bandwidth_is_an_alternative_to_the_ratio() -> None:
    rows = [row("tuition", 110.0, bytes_per_s=96.0), row("llama.cpp", 100.0),
            row("tuition", 1, what="limits", read_bytes_per_s=100.0, matrix_ops_per_s={})]  # fmt: skip
    assert verdict(rows).outcome == "missed"
    held = verdict(rows, or_share=0.95)
    assert (held.outcome, held.or_measured) == ("met", pytest.approx(0.96))
    assert verdict(rows, or_share=0.97).outcome == "missed"


def test_a_peer_that_was_not_measured_proves_nothing() -> None:
    found = verdict([row("tuition", 1_000.0)])
    assert (found.measured, found.outcome) == (None, "not measured")


def test_quality_is_compared_with_the_peers_at_equal_bits() -> None:
    rows = [row(side, 0, what="quality", batch=None, tokens_per_s=None, log_ratio=loss)
            for side, loss in (("tuition", 0.011), ("llama.cpp", 0.010))]  # fmt: skip
    asked = {"what": "quality", "figure": "log_ratio", "sense": "at most", "batch": None}
    assert verdict(rows, kind="excess", bound=0.0, **asked).outcome == "missed"
    assert verdict(rows, kind="excess", bound=0.002, **asked).outcome == "met"
    assert verdict(rows, kind="figure", bound=0.010, **asked).measured == 0.011


def test_every_target_can_be_read_from_a_row_or_names_its_tests() -> None:
    for target in targets.TARGETS:
        if target.kind == "tests":
            assert (BENCH.parent / target.tests).exists(), target.row
        else:
            columns = {figure.column for figure in report.FIGURES[target.what]}
            assert target.figure in columns, target.row
            assert target.precisions, target.row


def test_a_machine_without_amx_is_named_beside_the_targets() -> None:
    machine = {"processor": "P", "instructions": "avx512_bf16", "threads": 2}
    assert "does not have" in targets.where(machine)
    assert "does not have" not in targets.where(machine | {"instructions": "amx"})


def test_a_start_counts_from_the_launch_and_the_memory_is_of_the_work_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, done = [100.0], []
    monkeypatch.setattr(protocol.time, "time", lambda: now[0])

    def generate(prompts: list[list[int]], tokens: int) -> None:
        now[0] += 1.0
        done.append((len(prompts[0]), tokens))

    asked = task(what=("start",), options={"launched": 97.5}, prompt=40, generate=9)
    (found,) = protocol.measure_generate(asked, generate, 0.5)
    assert (found["seconds"], found["load_s"]) == (3.5, 0.5)
    assert done[1:] == [(40, 9)]


def test_the_fastest_build_that_runs_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(command: tuple[str, ...]) -> Any:
        if "dies" in command[0]:
            raise process.ProcessError("ended with -4")
        rate = 10.0 if "slow" in command[0] else 20.0
        rows = [{"n_gen": 0, "samples_ts": [rate]}, {"n_gen": 24, "samples_ts": [rate]}]
        return process.Finished(json.dumps(rows), "", 1.0, 0)

    monkeypatch.setattr(llama, "run_process", run)
    names = ("slow", "fast", "dies")
    builds = llama.Builds([{"compiler": name, "tools": name} for name in names], tmp_path)
    assert builds.tools(task()) == tmp_path / "fast"
    tried = builds.facts(task())["builds"]
    assert (tried["slow"]["score"], tried["dies"]["failed"]) == (10.0, "ended with -4")
    with pytest.raises(process.ProcessError, match="no build"):
        llama.Builds([{"compiler": "dies", "tools": "dies"}], tmp_path).tools(task())


def test_packed_layers_of_vllm_give_the_weights_back() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    packed = vllm_files.w8a8("layer", weight)
    near = packed["layer.weight"].float() * packed["layer.weight_scale"].float()
    assert (near - weight).abs().max() <= weight.abs().max() / 100  # half of a 127th, and bfloat16 scales
    packed = vllm_files.gptq("layer", weight)
    places = torch.arange(0, 32, 4).reshape(1, 8, 1)
    values = ((packed["layer.qweight"].long()[:, None] >> places) & 15).reshape(64, 16)
    zeros = ((packed["layer.qzeros"].long()[..., None] >> places.reshape(1, 1, 8)) & 15).reshape(2, 16) + 1
    group = packed["layer.g_idx"].long()
    near = ((values - zeros[group]) * packed["layer.scales"].float()[group]).T
    assert (near - weight).abs().max() <= weight.abs().max() / 7  # the topmost value is cut to 7 of 8


def test_a_llama2_c_file_becomes_a_model_that_says_the_same(tmp_path: Path) -> None:
    """Rows of query and key are interleaved there; opened as ours, each pair stands half a head apart."""
    hidden, mlp, layers, heads, vocab = 32, 64, 2, 2, 300
    header = stories.HEADER.pack(hidden, mlp, layers, heads, heads, vocab, 16)
    sizes = [vocab * hidden, layers * hidden, *[layers * hidden * hidden] * 4, layers * hidden,
             *[layers * hidden * mlp] * 3, hidden]  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randn(size, generator=draw) for size in sizes]
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *[bytes([n]) for n in range(256)]]
    pieces += [f" w{n}".encode() for n in range(vocab - len(pieces))]
    table = struct.pack("<i", 9) + b"".join(
        stories.TOKEN.pack(-float(number), len(piece)) + piece for number, piece in enumerate(pieces)
    )
    target = tmp_path / "m.gguf"
    stories.write_gguf(header + torch.cat(parts).numpy().tobytes(), table, target)
    opened = open_model(target)
    query = parts[2].reshape(layers, heads, hidden // heads // 2, 2, hidden)[1]
    wanted = query.transpose(1, 2).reshape(hidden, hidden).to(torch.bfloat16).float()
    torch.testing.assert_close(opened.tensor("layers.1.attention.query.weight").float(), wanted)
    value = parts[4].reshape(layers, hidden, hidden)[1].to(torch.bfloat16).float()
    torch.testing.assert_close(opened.tensor("layers.1.attention.value.weight").float(), value)
    assert opened.tokenizer().bos_id == 1
    assert opened.tokenizer().token_id("▁w0") == 259
