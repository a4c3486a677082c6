"""Damaged tokenizer files end in a clear error or a working tokenizer, never in a crash or a hang."""

import json
import subprocess
import sys
from pathlib import Path

from tuition.tokenizer.tokenizer import Tokenizer

PROGRAM = """
import random, resource, sys
from pathlib import Path
from tuition.core.errors import TuitionError
from tuition.tokenizer.tokenizer import Tokenizer

folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
names = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]
whole = {name: (folder / name).read_bytes() for name in names}
Tokenizer.load(folder).encode("warm up")
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, now + 2**28))
outcomes = {"refused": 0, "loaded": 0}
for seed in range(rounds):
    random.seed(seed)
    name = names[seed % 3]
    content = bytearray(whole[name])
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(content))
        action = random.randrange(4)
        if action == 0:
            content[place] = random.randrange(256)
        elif action == 1:
            del content[place:]
        elif action == 2:
            content[place:place] = random.choice([b'{', b'[', b'"', b'-1', b'9' * 40, b'null', b'1e999'])
        else:
            end = min(len(content), place + random.randint(1, 40))
            content[place:end] = b""
        content = content or bytearray(b" ")
    (folder / name).write_bytes(content)
    try:
        tokenizer = Tokenizer.load(folder)
        tokenizer.decode(tokenizer.encode("to be </s> or <|im_end|> not"))
        tokenizer.decode(range(-2, 400))
        outcomes["loaded"] += 1
    except TuitionError as error:
        outcomes["refused"] += 1
    (folder / name).write_bytes(whole[name])
print(outcomes["refused"], outcomes["loaded"])
"""


def test_mutated_files_are_refused_or_work(model_folder: Path) -> None:
    """In a process of its own, with a limit on memory: a crash inside of the library would end it."""
    program = model_folder.parent / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), str(model_folder), "400"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    refused, loaded = map(int, done.stdout.split())
    assert refused + loaded == 400
    assert refused > 50, "mutations must reach the parser for this to test anything"


def test_ids_out_of_range_in_configs_are_left_out(model_folder: Path) -> None:
    (model_folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [10**9, 2], "bos_token_id": -4})
    )
    assert Tokenizer.load(model_folder).eos_ids == (2, 0, 3)
    assert Tokenizer.load(model_folder).bos_id == 0
