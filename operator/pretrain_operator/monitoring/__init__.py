"""What people see of the metrics: dashboards for Grafana, alert rules and the page of all metrics, made from the catalogues.

`make generate` writes them (`python -m pretrain_operator.monitoring`). Nothing here runs in the operator.
"""
