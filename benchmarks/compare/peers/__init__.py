"""The workloads in other frameworks, each script written as that project's documentation shows it.

    python -m benchmarks.compare.peers.plain mnist --steps 250 --workers 2 --readings FILE
    torchrun --nproc_per_node=2 -m benchmarks.compare.peers.ignite mnist --steps 250 --readings FILE

All take the same arguments (`options`), print the loss at the same steps, and write the time of those to FILE.
"""
