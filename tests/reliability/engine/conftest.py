"""The doubles of the engine's unit tests, here as well."""

import importlib.util
from pathlib import Path

_path = Path(__file__).resolve().parents[2] / "unit" / "engine" / "conftest.py"
_spec = importlib.util.spec_from_file_location("engine_doubles", _path)
if _spec is None or _spec.loader is None:
    raise ImportError(str(_path))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

kit = _module.kit
