"""The program `examples`: labelled examples for one task of fine-tuning, checked and split."""
