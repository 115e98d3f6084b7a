"""What a finished model is asked: texts to continue, prompts to answer, records to label.

A folder (folder.py) becomes a model that answers (load.py, the seam: AnsweringModel in answering.py), which writes (generation.py,
text.py) or labels (classification.py). It is asked on a terminal and for files (command.py, predict.py), and by the stage
predict-<name> of a job (stage.py).
"""
