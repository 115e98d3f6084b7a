"""`python -m pretrain_operator.cluster`."""

from pretrain_operator.cluster.main import main

main()
