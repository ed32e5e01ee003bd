"""Your own Python files, which the setting ``imports`` names: they register networks and heads."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from covidnet.base.errors import SettingError

_imported: dict[str, ModuleType] = {}


def import_own(names: Sequence[str] | str | None) -> None:
    """Import files or modules, each once in a process.

    Args:
        names: paths of ``.py`` files, which become importable under their names, or names of installed modules.

    Raises:
        SettingError: one cannot be imported.
    """
    for name in [names] if isinstance(names, str) else names or ():
        path = Path(str(name)).expanduser()
        key = str(path.resolve()) if path.suffix == ".py" else str(name)
        if key in _imported:
            continue
        try:
            _imported[key] = _from_file(path.resolve()) if path.suffix == ".py" else importlib.import_module(str(name))
        except SettingError as error:
            raise SettingError("imports", name, "a Python file or module that can be imported", str(error)) from None
        except Exception as error:  # whatever somebody's own file raises
            cause = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise SettingError("imports", name, "a Python file or module that can be imported", cause) from None


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    if path.stem in sys.modules or importlib.util.find_spec(path.stem) is not None:
        raise ImportError(f"there is another module {path.stem}; rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # of a .py file there always is one
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module
