"""A real SLURM on this machine for the time of a test: munged, slurmctld and slurmd, started by hand."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "sinfo")

# No systemd, no cgroups, no accounting: what a container has not.
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that is put back into the queue waits until its credentials have run out.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,sched_interval=1
KillWait=5
MinJobAge=600
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES OverSubscribe=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs of SLURM that are not installed."""
    return [name for name in PROGRAMS if _which(name) is None]


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run a SLURM of one node with one partition, ``test``.

    Args:
        folder: for its files; short, since a socket's path has at most 107 bytes.

    Yields:
        Environment variables for its commands.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    controller, node = _free_ports(2)
    values = {
        "host": socket.gethostname().partition(".")[0], "controller": controller, "node": node, "folder": folder,
        "user": getpass.getuser(), "cpus": os.cpu_count(),
    }  # fmt: skip
    lines = [line for line in _CONF.format(**values).splitlines() if not line.startswith("#")]
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    confines = "".join(f"Constrain{name}=no\n" for name in ("Cores", "Devices", "RAMSpace", "SwapSpace"))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n" + confines)
    env = {"SLURM_CONF": str(folder / "slurm.conf")}
    munge = [
        "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
        f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
    ]  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(_daemon(folder, env, "munged", *munge))
        _until(lambda: (folder / "munge.socket").exists(), folder)
        stack.enter_context(_daemon(folder, env, "slurmctld", "-D", "-c"))
        stack.enter_context(_daemon(folder, env, "slurmd", "-D"))
        _until(lambda: _idle(env), folder)
        try:
            yield env
        finally:
            # Jobs of a test that failed would outlive the daemons.
            subprocess.run(["scancel", f"--user={values['user']}"], env={**os.environ, **env}, check=False, timeout=20)


@contextmanager
def _daemon(folder: Path, env: dict[str, str], name: str, *arguments: str) -> Iterator[None]:
    program = _which(name)
    assert program is not None
    with (folder / f"{name}.out").open("wb") as out:
        process = subprocess.Popen(
            [program, *arguments], env={**os.environ, **env}, stdout=out, stderr=out, start_new_session=True
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _idle(env: dict[str, str]) -> bool:
    done = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() == "idle"


def _until(holds: object, folder: Path, seconds: float = 30) -> None:
    assert callable(holds)
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            logs = "\n".join(
                f"{log}:\n{log.read_text(errors='replace')[-2000:]}" for log in folder.glob("*.[lo][ou][gt]")
            )
            raise RuntimeError(f"SLURM did not start:\n{logs}")
        time.sleep(0.1)


def _which(name: str) -> str | None:
    # Daemons lie where the shell of a user does not look.
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
