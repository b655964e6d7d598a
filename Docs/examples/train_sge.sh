#!/usr/bin/env bash
# Trains on one machine with one graphics card; submit with: qsub train_sge.sh config.yaml runs/mine
# -notify sends SIGUSR2 before the end; it becomes SIGTERM here, at which a checkpoint is written. Exit code 99
# puts the job back into the queue, where it goes on from the checkpoint.
#$ -N regcore
#$ -cwd
#$ -S /bin/bash
#$ -l h_rt=24:00:00
#$ -l gpu=1
#$ -pe smp 8
#$ -notify
#$ -r y
set -u

config=$1
run=$2
if [ -f "$run/save/last.pt" ]; then what=(--resume "$run"); else what=("$config" --out "$run"); fi

python -m RegCore train "${what[@]}" --workers 4 &
training=$!
trap 'kill -TERM "$training"' USR2
wait "$training"
code=$?
if [ "$code" -gt 128 ]; then wait "$training"; code=$?; fi
[ "$code" -eq 130 ] && exit 99
exit "$code"
