"""The guide's commands run as typed; the examples for a cluster run where there is none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from dmpo.cli.launching import SHARDINGS, TRY_AGAIN
from tests.docs.fences import DOCS, fences
from tests.docs.short_runs import TRAINING, type_commands
from tests.oracles import processes

PAGE = "guides/scale.md"
CLUSTER = DOCS.parent / "examples" / "cluster"
JOB = {
    "SLURM_JOB_ID": "70123",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_CPUS_PER_TASK": "3",
}
SRUN = """#!/bin/sh
echo "$@" >> srun.log
while [ "${1#-}" != "$1" ]; do shift; done
worst=0
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" || worst=$?
done
exit $worst
"""
SCONTROL = """#!/bin/sh
case "$1 $2" in
  "show hostnames") printf 'node1\\nnode2\\n' ;;
  *) echo "$@" >> scontrol.log ;;
esac
"""
SCANCEL = """#!/bin/sh
echo "$@" >> scancel.log
"""
DMPO = """#!/bin/sh
env > "process$RANK.env"
printf '%s\\n' "$@" > "process$RANK.arguments"
exit "$WANTED"
"""


def test_commands_of_the_guide_run_and_print_its_table(tmp_path: Path) -> None:
    said = type_commands(PAGE, tmp_path)
    checkpoint = tmp_path / "runs/parts/checkpoints/step-000001"
    assert len(list(checkpoint.glob("rank-*.json"))) == 2
    assert "resume      runs/parts/checkpoints/step-000001" in said
    (table,) = (fence.text for fence in fences(PAGE) if fence.language == "text")
    # On a machine with a GPU there is a line more, on its size, and one less.
    assert [line for line in table.splitlines()[:-2] if line not in said.splitlines()] == []


def test_every_file_that_the_guide_names_is_there() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    results = set(re.findall(r"`(?:benchmarks/results/)?(\w+\.md)`", text))
    assert len(results) > 4
    missing = [name for name in results if not (DOCS.parent / "benchmarks/results" / name).exists()]
    assert missing == []
    named = re.findall(r"examples/cluster/\w+\.\w+", text)
    assert named
    assert [name for name in named if not (DOCS.parent / name).exists()] == []


def test_guide_explains_every_option_of_the_job() -> None:
    section = (DOCS / PAGE).read_text(encoding="utf-8").split("## Slurm")[1].split("\n## ")[0]
    job = (CLUSTER / "slurm.sh").read_text()
    explained = re.findall(r"`(--[\w-]+(?:=[\w@]+)?)`", section.split("Time limits")[0])
    known = [option for option in explained if option not in ("--gpus-per-task",)]
    assert len(known) > 6
    assert [option for option in known if option not in job] == []
    # How large the job is, everyone sets as they like.
    size = ("--job-name", "--nodes", "--cpus-per-task", "--time")
    options = re.findall(r"^#SBATCH (--[\w-]+)", job, flags=re.MULTILINE)
    assert [o for o in options if o not in size and f"`{o}" not in section] == []


def launcher(*arguments: str) -> tuple[Any, dict[str, str]]:
    """Return what Accelerate's launcher makes of its arguments, and the environment it gives."""
    parsed = launch_command_parser().parse_args([*arguments, "-m", "dmpo", "train"])
    told, _, _ = _validate_launch_command(parsed)
    if told.use_deepspeed:
        told.deepspeed_fields_from_accelerate_config = ""
        return told, prepare_deepspeed_cmd_env(told)[1]
    return told, prepare_multi_gpu_env(told)


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_configs_for_eight_gpus_say_what_processes_and_sharding_say(sharding: str) -> None:
    ours = ("--num_processes", "8", "--num_machines", "1", "--main_process_port", "0")
    plain = ("--mixed_precision", "no", "--dynamo_backend", "no")
    expected, environment = launcher(*SHARDINGS[sharding], *ours, *plain)
    found, given = launcher("--config_file", str(CLUSTER / f"eight_gpus_{sharding}.yaml"))
    assert given == environment
    for name in ("multi_gpu", "use_fsdp", "use_deepspeed", "num_processes", "nproc_per_node"):
        assert getattr(found, name) == getattr(expected, name), name


def test_config_for_two_nodes_gives_each_half_of_the_processes() -> None:
    file = ("--config_file", str(CLUSTER / "two_nodes_fsdp2.yaml"))
    there, given = launcher(*file, "--main_process_ip", "host", "--machine_rank", "1")
    assert (there.nnodes, there.nproc_per_node, there.node_rank) == ("2", "8", 1)
    assert there.rdzv_endpoint == "host:29500"
    assert processes.FSDP2.items() <= given.items()


def test_config_for_one_gpu_starts_one_process() -> None:
    config = load_config_from_file(str(CLUSTER / "one_gpu.yaml"))
    assert (config.num_processes, config.distributed_type) == (1, "NO")
    told, _ = launcher("--config_file", str(CLUSTER / "one_gpu.yaml"))
    assert [told.multi_gpu, told.use_fsdp, told.use_deepspeed] == [False] * 3


def test_no_config_is_left_untested() -> None:
    names = {*(f"eight_gpus_{name}.yaml" for name in SHARDINGS), "one_gpu.yaml"}
    assert {file.name for file in CLUSTER.glob("*.yaml")} == names | {"two_nodes_fsdp2.yaml"}


def test_a_config_trains_on_two_processes(tmp_path: Path) -> None:
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2")
    config = ("--config_file", str(CLUSTER / "eight_gpus_ddp.yaml"))
    dmpo = ("-m", "dmpo", "train", "--output", "run", *TRAINING.split(), "--steps", "2")
    done = subprocess.run(
        [*launch, *config, *dmpo],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("finished: 2 steps") == 1
    assert '"num_processes": 2' in (tmp_path / "run/environment.json").read_text()
    parts = (tmp_path / "run/checkpoints/step-000002").glob("rank-*.json")
    assert sorted(part.name for part in parts) == ["rank-00000.json", "rank-00001.json"]


def submitted(directory: Path, code: int, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the job's script where Slurm's commands and dmpo are scripts that write down."""
    programs = directory / "bin"
    programs.mkdir()
    written = {"srun": SRUN, "scontrol": SCONTROL, "scancel": SCANCEL, "dmpo": DMPO}
    for name, text in written.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    return subprocess.run(
        [str(CLUSTER / "slurm.sh"), "runs/long", "--task", "gsm8k", "--seed", "3"],
        cwd=directory,
        env=os.environ | JOB | {"PATH": path, "WANTED": str(code)} | more,
        capture_output=True,
        text=True,
    )


def environment_of(directory: Path, rank: int) -> dict[str, str]:
    lines = (directory / f"process{rank}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.mark.parametrize("sharding", ["fsdp2", "ddp"])
def test_job_starts_every_process_with_its_place_and_the_sharding(
    tmp_path: Path, sharding: str
) -> None:
    done = submitted(tmp_path, 0, SHARDING=sharding)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        given = environment_of(tmp_path, rank)
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        first = {"MASTER_ADDR": "node1", "MASTER_PORT": "30123", "OMP_NUM_THREADS": "3"}
        assert (place | first).items() <= given.items()
        assert (processes.FSDP2.items() <= given.items()) == (sharding == "fsdp2")
        arguments = (tmp_path / f"process{rank}.arguments").read_text().split()
        assert arguments[:5] == ["train", "--task", "gsm8k", "--seed", "3"]
        assert arguments[5:] == ["--output", "runs/long", "--resume", "auto"]


@pytest.mark.parametrize("code", [0, 1, 2, TRY_AGAIN, 137])
def test_job_queues_itself_again_exactly_after_a_warning(tmp_path: Path, code: int) -> None:
    done = submitted(tmp_path, code)
    log = tmp_path / "scontrol.log"
    said = log.read_text() if log.exists() else ""
    assert said == ("requeue 70123\n" if code == TRY_AGAIN else "")
    assert done.returncode == (0 if code == TRY_AGAIN else code)
    assert not (tmp_path / "scancel.log").exists()


def test_job_refuses_what_it_cannot_start(tmp_path: Path) -> None:
    done = submitted(tmp_path, 0, SHARDING="zero3")
    assert done.returncode == 2
    assert "ddp and fsdp2 are accepted" in done.stderr
    assert not (tmp_path / "srun.log").exists()


def test_job_is_a_shell_script_that_slurm_can_read() -> None:
    file = CLUSTER / "slurm.sh"
    assert subprocess.run(["bash", "-n", str(file)]).returncode == 0
    lines = file.read_text().splitlines()
    options = [line.split(maxsplit=1)[1] for line in lines if line.startswith("#SBATCH ")]
    assert {"--requeue", "--open-mode=append"} < set(options)
    assert [option for option in options if "#" in option or " " in option] == []
    # Slurm reads no options behind the first command.
    first_command = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(not line.startswith("#SBATCH") for line in lines[first_command:])
