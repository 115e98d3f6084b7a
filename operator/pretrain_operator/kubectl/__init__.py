"""The commands that speak to a cluster: submit, list, status, logs, suspend, resume, checkpoints.

They read and write PretrainJobs as kubectl does, with the user's rights; that an operator runs is not their concern.

Its modules, in the order of the flow:

    commands, completion     what is typed, and what Tab offers
    connection, refusal      one API server, and what it refuses as one sentence
    seen                     a PretrainJob as it was read: lenient, typed
    submit, switch           write: a file, or the field suspend
    columns, listing         read: a table of jobs
    view, watching           read: one job, drawn; and waiting for its end
    objects                  read: the objects themselves, for programs
    watched                  a watch in a thread of its own
    pods, lines, logs        read: what the pods of a job print
    stored                   the storage of a job, as it is reached from here
    checkpoint_commands, checkpoints
                             read, and restore: the checkpoints of a job, from its storage
    plain                    text of others, made harmless for a terminal
"""
