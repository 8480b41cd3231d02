"""Damaged input of every kind, made by generators, and what the program must not do with it.

    python -m tests.torture [GENERATOR ...] [--seed N] [--limit N] [--case NAME]

A generator is a module with `cases(seed)`. A case feeds one damaged input to a real command and yields the faults that
it finds: a traceback, a crash, a hang, a wrong exit code, a message that is missing or unsafe, lost lines or steps, a
signal to another's process, or a false claim.
"""
