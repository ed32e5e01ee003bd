"""Collects what installs covidnet and a model on a machine without a network: ``make bundle MODEL=model.onnx``.

The archive has wheels for this machine's system and Python, the model, install.sh, a Containerfile, a systemd unit, and
SHA256SUMS, which install.sh verifies. With an exported model it leaves out PyTorch.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
EXTRAS = ("app", "hospital")
TORCH_CPU = "https://download.pytorch.org/whl/cpu"
# What is copied as it is.
FILES = ("install.sh", "Containerfile", "covidnet.service")


def requirements(light: bool, extras: tuple[str, ...]) -> list[str]:
    """The packages to install besides covidnet.

    Args:
        light: without PyTorch.
        extras: of covidnet.
    """
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = project["dependencies"]
    if light:
        lines = (PROJECT / "requirements-light.txt").read_text(encoding="utf-8").splitlines()
        found = [line for line in lines if line and not line.startswith("#")]
    for extra in extras:
        if extra not in project["optional-dependencies"]:
            sys.exit(f"extras={extra}: must be one of {', '.join(project['optional-dependencies'])}")
        found = [*found, *project["optional-dependencies"][extra]]
    inner = [re.fullmatch(r"covidnet\[(.+)\]", line) for line in found]
    further = tuple(name for match in inner if match for name in match[1].split(","))
    own = [line for line, match in zip(found, inner, strict=True) if not match]
    return sorted({*own, *(requirements(light, further) if further else ())})


def main() -> None:
    """Write the archive, and print its path and size."""
    parser = argparse.ArgumentParser(description="an archive that installs covidnet and a model without a network")
    parser.add_argument(
        "model", type=Path, nargs="?", help="model.onnx of covidnet.export (without PyTorch), or a best.ckpt"
    )
    parser.add_argument("--out", type=Path, default=Path("dist"), help="the folder for the archive")
    parser.add_argument("--extras", default=",".join(EXTRAS), help="of covidnet, with commas between them")
    parser.add_argument("--weights", type=Path, help="a folder of published weights to train with")
    parser.add_argument("--requirements", type=Path, help="a file of packages, instead of those of covidnet")
    parser.add_argument("--find-links", type=Path, help="a folder of wheels, instead of the package index")
    given = parser.parse_args()
    if given.model is None:
        sys.exit("MODEL=: must be a model.onnx or best.ckpt; make one with: covidnet export checkpoint=RUN")
    if not given.model.is_file():
        sys.exit(f"{given.model}: no such file; make one with: covidnet export checkpoint=RUN")
    if given.weights is not None and not given.weights.is_dir():
        sys.exit(f"{given.weights}: no such folder; give the folder of the published files")
    light = given.model.suffix == ".onnx"
    if given.requirements is not None:
        packages = given.requirements.read_text(encoding="utf-8").split()
    else:
        packages = requirements(light, tuple(name for name in given.extras.split(",") if name))
    with tempfile.TemporaryDirectory() as scratch:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
        wheels = Path(scratch) / "wheels"
        run([*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(PROJECT)])
        name = next(wheels.glob("covidnet-*.whl")).name.split("-")[1]
        folder = Path(scratch) / f"covidnet-{name}-{version}"
        folder.mkdir()
        (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in packages), encoding="utf-8")
        source = ["--no-index", "--find-links", str(given.find_links)] if given.find_links else []
        if not light and not source:
            source = ["--extra-index-url", TORCH_CPU]
        run([*pip, *source, "--wheel-dir", str(wheels), "--requirement", str(folder / "requirements.txt")])
        if source[:1] == ["--extra-index-url"] and any(wheels.glob("nvidia_*.whl")):
            sys.stderr.write(
                f"warning: {TORCH_CPU} has no wheel of PyTorch or cannot be reached: this one is for CUDA\n"
            )
        wheels.rename(folder / "wheels")
        (folder / "PYTHON").write_text(f"{version}\n", encoding="utf-8")
        shutil.copy(given.model, folder / f"model{given.model.suffix}")
        if given.weights is not None:
            shutil.copytree(given.weights, folder / "weights")
        for file in FILES:
            shutil.copy(HERE / file, folder / file)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sums = "".join(f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
        (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")
        given.out.mkdir(parents=True, exist_ok=True)
        archive = given.out / f"{folder.name}.tar"
        # Wheels are compressed already.
        with tarfile.open(archive, "w") as tar:
            tar.add(folder, folder.name)
        (given.out / f"{archive.name}.sha256").write_text(f"{sha256(archive)}  {archive.name}\n", encoding="utf-8")
    sys.stdout.write(f"{archive} ({archive.stat().st_size / 1e6:.0f} MB, {len(files)} files)\n")


def run(command: list[str]) -> None:
    """Run a command, and end with its exit status if it fails."""
    if status := subprocess.run(command, check=False).returncode:
        sys.exit(status)


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
