"""Our engine from the start of a process to the first token; timed from outside."""

import sys

from task import read_task

from tuition.engine.engine import Engine
from tuition.engine.settings import EngineSettings

if __name__ == "__main__":
    asked = read_task(sys.argv)
    precision = "int4" if asked.precision == "int4min" else asked.precision
    with Engine(asked.model, settings=EngineSettings(precision=precision, threads=asked.threads)) as engine:
        print(engine.generate("The", max_tokens=1)[0].text)
