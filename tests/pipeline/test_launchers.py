"""Launchers that start a process for each job: two jobs are two children of one parent run, and one table."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import scratch

RAY = "hydra/launcher=ray_cluster"
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""

# The commands of SLURM that submitit calls, as far as it looks at them: sbatch runs the array's two tasks in turn.
SLURM = {
    "sbatch": """
here=$(dirname "$0")
cp "$1" "$here/submitted.sh"
export SLURM_ARRAY_JOB_ID=7 SLURM_JOB_NAME=tuneledger SLURM_JOB_NODELIST=here SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=1
export SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
(
    for task in 0 1; do SLURM_JOB_ID=$((7 + task)) SLURM_ARRAY_TASK_ID=$task sh "$here/submitted.sh"; done
    touch "$here/ended"
) > "$here/log" 2>&1 &
echo Submitted batch job 7
""",
    "srun": """
while true; do case "$1" in --output|--error) shift 2;; -*) shift;; *) break;; esac; done
exec "$@"
""",
    "sacct": """
[ -e "$(dirname "$0")/ended" ] && state=COMPLETED || state=RUNNING
printf "JobID|State|NodeList\\n7_0|$state|here\\n7_1|$state|here\\n"
""",
}


def needs(package: str, extra: str) -> pytest.MarkDecorator:
    absent = importlib.util.find_spec(f"hydra_plugins.{package}") is None
    return pytest.mark.skipif(absent, reason=f"launcher not installed: pip install 'tuneledger[{extra}]'")


needs_ray = needs("hydra_ray_launcher", "ray")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Address of a running Ray cluster of two nodes with a core each, which know nothing of the project."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        cwd=tmp_path,
        env=scratch.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ray ends its whole process group
    )
    yield process.stdout.readline().strip()
    process.communicate(timeout=60)


def check_two_jobs(project: Path, *launcher: str, **changes: str) -> None:
    """Run two jobs and see both finished, ranked, and under one parent; each in a process of its own."""
    from mlflow import MlflowClient

    lean = ("tracking.log_model=false", "tracking.system_metrics=false")
    done = scratch.stage(project, "train", "--multirun", "optim.lr=1e-3,5e-4", *launcher, *lean, **changes)
    ranks = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| ") and "lr=" in line]
    assert ranks == ["1", "2"]

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("tuneledger").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = [run for run in runs if run not in children]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert sorted(child.data.params["optim.lr"] for child in children) == ["0.0005", "0.001"]
    assert len({run.data.tags["pid"] for run in runs}) == 3

    (sweep,) = (project / "multirun").glob("*/*")
    trained = (project / "results/train/epochs.csv").read_bytes()  # by `dvc repro`, at 1e-3
    assert (sweep / "0/results/train/epochs.csv").read_bytes() == trained
    assert (sweep / "1/results/train/epochs.csv").read_bytes() != trained


@needs("hydra_submitit_launcher", "slurm")
def test_submitit_with_its_local_executor(fresh: Path):
    check_two_jobs(fresh, "hydra/launcher=submitit_local")


@needs("hydra_submitit_launcher", "slurm")
def test_the_slurm_preset_with_a_queue_of_shell_scripts(fresh: Path, tmp_path: Path):
    for command, script in SLURM.items():
        (tmp_path / command).write_text(f"#!/bin/sh\n{script}")
        (tmp_path / command).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{scratch.environment()['PATH']}"
    check_two_jobs(fresh, "hydra/launcher=slurm", "hydra.launcher.partition=gpu", PATH=path)
    submitted = (tmp_path / "submitted.sh").read_text()
    for option in ("array=0-1%2", "cpus-per-task=4", "mem=16GB", "partition=gpu", "time=240", "signal=USR2@"):
        assert f"#SBATCH --{option}" in submitted
    assert "account" not in submitted


@needs_ray
def test_ray_on_this_machine(fresh: Path):
    check_two_jobs(fresh, RAY)


@needs_ray
def test_ray_on_a_running_cluster_of_two_nodes(fresh: Path, cluster: str):
    check_two_jobs(fresh, RAY, f"hydra.launcher.ray.init.address={cluster}")
