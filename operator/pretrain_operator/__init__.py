"""Decides what should exist for a PretrainJob, and makes it so: on Kubernetes, or on this machine.

Its modules, in the order of the flow:

    api, status      the resource; crd makes the chart's CRD of them
    stages           a job as ordered stages, each a torchx AppDef: the whole meaning of a job
    children         what Kubernetes is given for each stage: config_map, indexed_job, backends, pod, names, metadata
    render           the stages and these objects as text
    check            what can be known about a job before anything heavy starts
    local            runs the stages on this machine, with one view
    kubectl          the commands that speak to a cluster
    cli, commands    the program `pretrain`
"""
