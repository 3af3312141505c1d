#!/bin/bash
# A training with one task of srun for each device, which SLURM begins again until it is finished:
#     sbatch docs/slurm/srun.sh runs/big model=gpt2-medium data=alpaca
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120        # to the tasks, 120 s before the time is over: they save and end

run=$1; shift
srun --kill-on-bad-exit=1 python train.py trainer=ddp output_dir="$run" "$@"
ift state "$run"                 # 0: finished; 75: stopped, the same command goes on; 1: failed
code=$?
[ $code = 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit $code
