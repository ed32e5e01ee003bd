"""``covidnet train fold=3``: every command under one name, the same as ``python -m covidnet.train fold=3``."""

from __future__ import annotations

import difflib
import runpy
import sys

from covidnet import __version__

COMMANDS: dict[str, str] = {
    "prepare": "read every image, and write the manifest and the folds",
    "train": "train one fold; -m 'fold=range(0,10)' trains all ten and writes the report",
    "features": "fill the feature store ahead of a sweep, verify it or prune it",
    "crossval": "write the report of a sweep again, or compare several sweeps",
    "audit": "check a data set and a sweep for what a hostile reviewer would find",
    "explain": "draw heat maps of any images",
    "predict": "compute class probabilities of any images",
    "evaluate": "external validation: test a trained model on another data set",
    "export": "write a trained model as one ONNX file",
    "app": "serve a trained model: a web page and a REST API",
}
"""The commands in the order in which a study needs them, and what each does."""


def main() -> None:
    """Run the command that the first argument names, with the rest as its arguments.

    Raises:
        SystemExit: with the command's exit code, or for an unknown command, naming the nearest one.
    """
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {command:{width}}  {text}" for command, text in COMMANDS.items()]
        lines = ["usage: covidnet COMMAND [SETTING=VALUE ...]", "", *lines, "", "Settings: covidnet COMMAND --help", ""]
        sys.stdout.write("\n".join(lines))
    elif name == "--version":
        sys.stdout.write(f"{__version__}\n")
    elif name in COMMANDS:
        sys.argv = [f"covidnet {name}", *rest]
        runpy.run_module(f"covidnet.{name}", run_name="__main__", alter_sys=True)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see covidnet --help"
        sys.exit(f"error: {name}: must be one of {', '.join(COMMANDS)}; {hint}")


if __name__ == "__main__":
    main()
