"""The bundle: what it has, and that it installs and predicts without a network."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from covidnet.data.phantoms.phantom import write_phantoms
from covidnet.export import main as export
from covidnet.launch.command import compose
from tests.conftest import PROJECT

SITE = next(path for path in map(Path, sys.path) if (path / "omegaconf").is_dir())
SHELL = shutil.which("sh")


def bundle(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROJECT / "deploy/bundle.py"), *map(str, words)],
        capture_output=True, text=True, cwd=cwd, check=False,
    )  # fmt: skip


def alone(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command where no network can be reached."""
    plain = {"PATH": os.environ["PATH"], "HOME": str(cwd), "PYTHON": sys.executable, "NO_ALBUMENTATIONS_UPDATE": "1"}
    network = ["unshare", "--user", "--map-root-user", "--net"] if unshared() else []
    return subprocess.run(
        [*network, *map(str, words)], capture_output=True, text=True, cwd=cwd, env=plain, check=False, timeout=300
    )


def unshared() -> bool:
    """Whether this machine lets a process have a network of its own."""
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, "-Urn", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "make one with: covidnet export"),
        (["nowhere.onnx"], "nowhere.onnx: no such file"),
        ([PROJECT / "README.md", "--extras", "nothing"], "extras=nothing: must be one of"),
        ([PROJECT / "README.md", "--weights", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_bundled_is_one_line(tmp_path: Path, words: list[object], said: str) -> None:
    done = bundle(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(SHELL is None, reason="install.sh needs a POSIX shell")
def test_the_packages_of_a_light_bundle_are_those_of_the_extras_without_pytorch() -> None:
    found = "[bundle.requirements(one, ('app', 'hospital')) for one in (True, False)]"
    code = f"import bundle, json; print(json.dumps({found}))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT / "deploy"
    )
    light, full = ({re.split("[<>=]", line)[0] for line in lines} for lines in json.loads(run.stdout))
    assert {"onnxruntime", "hydra-core", "fastapi", "prometheus-client", "uvicorn", "pydicom", "dicognito"} <= light
    assert not {"torch", "torchvision", "timm", "wandb"} & light
    assert {"torch", "torchvision", "dicognito", "pydicom"} <= full
    assert not any(name.startswith("covidnet") for name in light | full)


def test_the_service_and_the_container_start_the_server_with_settings_that_exist() -> None:
    known = compose((), "app")
    for name in ("covidnet.service", "Containerfile"):
        text = (PROJECT / "deploy" / name).read_text(encoding="utf-8")
        line = next(one for one in text.splitlines() if re.match(r"ExecStart=|CMD \[\"app", one))
        found = dict(re.findall(r"[ \"]([a-z_]+)=([^ \"]+)", line))
        assert set(found) <= set(known), name
        assert {"checkpoint", "host", "users", "audit_log"} <= set(found), name
    container = (PROJECT / "deploy/Containerfile").read_text(encoding="utf-8")
    assert "\nUSER 10001\n" in container
    asked = re.search(r'HEALTHCHECK .*?"-c", \\\n\s*("(?:[^"\\]|\\.)*")\]', container, re.DOTALL)
    assert asked is not None
    compile(json.loads(asked[1]), "health check", "exec")


@pytest.mark.slow
@pytest.mark.skipif(SHELL is None, reason="install.sh needs a POSIX shell")
def test_a_bundle_installs_and_predicts_without_a_network(trained: Callable[..., Path], tmp_path: Path) -> None:
    run = trained("fold=3", "model=cnn", "explain=off", "trainer.max_epochs=1")
    export(compose([f"checkpoint='{run}'", f"out='{tmp_path}/exported.onnx'", "images=1"], "export"))
    # One small wheel stands for the others, which this environment has.
    wheels = tmp_path / "given"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "covidnet_test_stand_in-1.0-py3-none-any.whl", "w") as wheel:
        info = "covidnet_test_stand_in-1.0.dist-info"
        wheel.writestr("covidnet_test_stand_in.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: covidnet-test-stand-in\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (tmp_path / "small.txt").write_text("covidnet-test-stand-in\n")
    done = bundle(
        tmp_path / "exported.onnx", "--out", tmp_path / "dist", "--requirements", tmp_path / "small.txt",
        "--find-links", wheels, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (archive,) = (tmp_path / "dist").glob("covidnet-*.tar")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert archive.with_name(f"{archive.name}.sha256").read_text() == f"{digest}  {archive.name}\n"
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (folder,) = (tmp_path / "unpacked").iterdir()
    assert {"install.sh", "Containerfile", "covidnet.service", "model.onnx", "wheels", "SHA256SUMS"} <= {
        path.name for path in folder.iterdir()
    }
    installed = tmp_path / "installed"
    model = (folder / "model.onnx").read_bytes()
    for damage, words in ((b"damaged", "files are damaged or missing"), (None, "does not list")):
        (folder / "model.onnx").write_bytes(damage or model)
        (folder / "extra").write_text("")
        done = alone(SHELL, folder / "install.sh", installed, cwd=tmp_path)
        assert done.returncode == 1
        assert words in done.stderr
        assert not installed.exists()
    (folder / "extra").unlink()
    # What the stand-in stands for.
    script = (folder / "install.sh").read_text()
    linked = "cp model.* "
    assert script.count(linked) == 1
    (folder / "install.sh").write_text(
        script.replace(linked, f'echo {SITE} > "$(echo "$target"/venv/lib/*/site-packages)"/libraries.pth\n{linked}')
    )
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    changed = hashlib.sha256((folder / "install.sh").read_bytes()).hexdigest()
    sums = [f"{changed}  install.sh" if line.endswith("  install.sh") else line for line in sums]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    done = alone(SHELL, folder / "install.sh", installed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "installed in" in done.stdout
    write_phantoms(tmp_path / "phantoms", images_per_class=11, size=96, workers=1)
    done = alone(
        installed / "venv/bin/covidnet", "predict", f"checkpoint={installed}/model.onnx", "out=results", "gate=warn",
        f"input={tmp_path}/phantoms/NORMAL", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "results/predictions.csv").read_text().splitlines()) == 12
    where = alone(installed / "venv/bin/python", "-c", "import covidnet; print(covidnet.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(installed))
    done = alone(SHELL, folder / "install.sh", installed, cwd=tmp_path)
    assert "is installed already" in done.stderr
