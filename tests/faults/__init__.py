"""Faults on purpose: a seed becomes a schedule (schedule.py), a runner applies it to a training of two processes and restarts it as
the operator would (runner.py), through a proxy that can make storage slow, wrong or absent (proxy.py), and an oracle says what
was promised and not held (oracle.py). `python -m tests.faults` runs the long schedules, the tests here a short one.
"""
