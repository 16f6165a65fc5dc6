#!/bin/bash
# A run on whole nodes by Slurm: stops before its time limit, queues itself again, goes on.
#
#     sbatch examples/cluster/slurm.sh runs/long --policy llada --model DIRECTORY --task gsm8k
#
# The first word is the run's directory, on a file system that all nodes see; what follows are
# options of `dmpo train`. SHARDING=ddp leaves the weights whole on each GPU (default: fsdp2).
# What each line is for: docs/guides/scale.md.

#SBATCH --job-name=dmpo
#SBATCH --nodes=2
# One task for each GPU. All GPUs of a node are visible to all of its tasks, which choose theirs by
# LOCAL_RANK: so no --gpus-per-task, by which each would see a single one and call it number 0.
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# After a preemption or the failure of a node, Slurm queues the job again by itself.
#SBATCH --requeue
# SIGUSR1 goes to every task, 300 seconds before the time limit. That has to be more than a step
# with a new buffer takes, an evaluation (which several processes do not break off) and a
# checkpoint. With "B:" in front it would reach this script alone.
#SBATCH --signal=USR1@300
# The log of the job's next turn is added to that of this one.
#SBATCH --open-mode=append

set -u -o pipefail

RUN=${1:?"give the directory of the run, then options of dmpo train"}
shift

# What a launcher tells every process: where the first one is, and on which port it listens. The
# port differs from job to job, as two may share a node.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

# What Accelerate's launcher would say of the sharding, as in two_nodes_fsdp2.yaml.
case ${SHARDING:-fsdp2} in
  ddp) ;;
  fsdp2)
    export ACCELERATE_USE_FSDP=true
    export FSDP_VERSION=2
    export FSDP_AUTO_WRAP_POLICY=TRANSFORMER_BASED_WRAP
    export FSDP_STATE_DICT_TYPE=FULL_STATE_DICT
    export FSDP_CPU_RAM_EFFICIENT_LOADING=false
    ;;
  *)
    echo "slurm.sh: SHARDING is $SHARDING; ddp and fsdp2 are accepted." >&2
    exit 2
    ;;
esac

# Who a process is, its task alone knows: so a shell in each says it, and becomes dmpo (exec), which
# then gets the signals itself. `--resume auto` starts the run in the job's first turn and goes on
# with it in all others.
#
# --kill-on-bad-exit=0: processes that stop after SIGUSR1 exit with 75 one by one, and the first
# must not take down another that is still writing. --wait: where one has died, the others get two
# minutes to say so and end.
code=0
# shellcheck disable=SC2016  # expanded in the task, not here
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 --wait=120 \
  bash -c 'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
           exec dmpo train "$@"' dmpo "$@" --output "$RUN" --resume auto || code=$?

# 75: stopped by SIGUSR1, saved, and not done. Anything else is the end: 0 done (or stopped by hand
# with SIGTERM), 1 or 2 an error, which another turn would only repeat.
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
  exit
fi
exit "$code"
