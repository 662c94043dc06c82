#!/bin/bash
# Written by `ixt launch slurm`. Slurm starts one process per GPU, which ixt joins.
#SBATCH --job-name=$name
#SBATCH --nodes=$num_nodes
#SBATCH --ntasks-per-node=$processes_per_node
#SBATCH --chdir=$folder
#SBATCH --output=$log
#SBATCH --open-mode=append
# Asked to go (preemption, the end of the time limit), ixt gets SIGUSR1 this many seconds before.
#SBATCH --signal=USR1@$notice_s
#SBATCH --requeue
$directives
$setup
# Once a process has ended, by itself or by a crash, the others get a minute to do so too.
# srun does not inherit the CPUs per task from the job.
srun --cpus-per-task=$cpus_per_process --kill-on-bad-exit=0 --wait=60 $command
status=$$?

# 138 = 128 + SIGUSR1: ixt has saved and wants to continue.
if [ $$status -eq 138 ]; then
    scontrol requeue "$$SLURM_JOB_ID"
fi
exit $$status
