"""The operator's process: everything of it that talks to the API server. What is decided is decided in plan.py, which is pure.

`python -m pretrain_operator.cluster`: watches (handlers) and lists keep the stores; every change puts its job's key on the
queue; workers reconcile: observe, plan, apply. One replica at a time works, the holder of the Lease.
"""
