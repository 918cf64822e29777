"""One cell on several devices: a process per device, the one that runs the cell and helpers that it starts. See docs/notes/devices.md.

`shares` says who computes what, `group` sums over the processes, `team` is what the first process sees of its helpers, which run
`bench.executors.helper`.
"""
