"""Faults of a training run, as its processes see them: what is a fault is worked out here, what follows is said in each module."""
