#!/usr/bin/env bash
# Trains on two machines with four graphics cards each; submit with: sbatch train_slurm.sh config.yaml runs/mine
# The job asks for a signal two minutes before its time is over: the training then writes a checkpoint and
# ends, and the job puts itself back into the queue, where it goes on from the checkpoint.
#SBATCH --job-name=regcore
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -u

config=$1
run=$2
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
if [ -f "$run/save/last.pt" ]; then what=(--resume "$run"); else what=("$config" --out "$run"); fi

srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 4 \
  --rdzv-backend c10d --rdzv-endpoint "$first:29500" --rdzv-id "$SLURM_JOB_ID" \
  --module RegCore train "${what[@]}" --workers 4
code=$?
[ "$code" -eq 0 ] || [ ! -f "$run/save/last.pt" ] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
