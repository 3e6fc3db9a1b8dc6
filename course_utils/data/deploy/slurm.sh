#!/bin/bash
# A Ray cluster inside a Slurm allocation: the first machine leads, the others join, the job runs.
#     sbatch slurm.sh
# Input and output lie in a folder that all machines see, the course's environment too.
#SBATCH --job-name=label-reviews
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=label-reviews-%j.log

set -euo pipefail
source .venv/bin/activate

machines=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${machines[0]}
port=6379
# From Slurm 22.05 on srun does not take --cpus-per-task over from sbatch: each Ray might get one core
# and share it among all its workers.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
until ray status --address "$head:$port" >/dev/null 2>&1; do sleep 1; done
if ((SLURM_NNODES > 1)); then
    srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" \
        ray start --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi  # they join one by one; the job waits two minutes for as many cores as its workers need

# The job ends with this line; Slurm then ends Ray on all machines.
python examples/label_reviews.py "$HOME/reviews/input" "$HOME/reviews/output" \
    --workers $((SLURM_NNODES * SLURM_CPUS_PER_TASK / 2)) --address "$head:$port"
