"""Fine-tuning: a finished model learns a task from labelled examples. The loop is that of training; this is another course.

section.py    what the section asks, as a training that the loop understands
base.py       the model to start from: where it is, and whether it can be used
plan.py       the run in numbers; its identities
tasks.py      an example as a sample, and logits as a prediction: one class a task
samples.py    the examples of a split in the order of training
methods.py    what is trained: all, some layers, or something small beside them
adalora.py    what AdaLoRA does besides between the steps
network.py    transformers' classes around the base
measure.py    predictions of a split, by all processes together
course.py     the course
evaluate.py   the stage evaluate-<name>
export.py     the stage export-<name>
"""
