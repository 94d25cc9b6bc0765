#!/bin/bash
# One training on several nodes under Slurm, one process for each GPU. sbatch examples/cluster/slurm.sh
#SBATCH --job-name=fewstep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120        # two minutes before the end every process is asked to stop, and the run is saved
#SBATCH --requeue
#SBATCH --open-mode=append       # what is printed goes on, too

# A folder that all nodes see. Process 0 writes it; the others read its settings when the run goes on.
RUN=$HOME/runs/omniglot
export JAX_COMPILATION_CACHE_DIR=$HOME/.cache/fewstep/jax

# srun starts the processes; JAX reads from Slurm's variables how many there are, which of them each one is and where process 0
# runs. --kill-on-bad-exit ends the step where one fails, so that it can be started again.
if [ -f "$RUN/config.json" ]; then
  srun --kill-on-bad-exit=1 fewstep resume "$RUN" --processes auto
else
  srun --kill-on-bad-exit=1 fewstep train omniglot --data-dir "$HOME/omniglot" --meta-batch-size 512 --out "$RUN" --processes auto
fi
status=$?

# 130: it was asked to stop at the end of its time, and the run is saved (143: srun ended the first process after another one had left).
# The job goes back into the queue, and on from there.
case "$status" in 130 | 143) scontrol requeue "$SLURM_JOB_ID" ;; esac
exit "$status"
