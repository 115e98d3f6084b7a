"""Those that are told what a run measures, a module each. Process 0 alone has any.

spoken        events on standard output
prometheus    metrics, served over HTTP
record        reports/training.jsonl
tracking      a thread for each of tensorboard, mlflow and wandb

`choice` tells which of them a run has. None of them waits for a device, for storage or for whoever reads: numbers arrive when
the run has them anyway, and files go up with the checkpoints.
"""
