#!/bin/bash
# A training with one torchrun on each node, which SLURM begins again until it is finished:
#     sbatch docs/slurm/torchrun.sh runs/big model=gpt2-medium data=alpaca
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@150        # to each torchrun, 150 s before the time is over

run=$1; shift
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# torchrun passes on the signals that it is told of (SIGUSR1 would end it otherwise) and then waits for its processes.
# Its own exit code is 1 where theirs is 75, and the first node to end must not end the others.
srun --kill-on-bad-exit=0 torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$first:${RENDEZVOUS_PORT:-29500}" \
    --signals-to-handle=SIGTERM,SIGINT,SIGUSR1 --shutdown-timeout=120 \
    train.py trainer=ddp output_dir="$run" "$@"
ift state "$run"                 # 0: finished; 75: stopped, the same command goes on; 1: failed
code=$?
[ $code = 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit $code
