"""Benchmarks: kexue_lib beside its peers, in one process, in one run. ``python -m benchmarks.attention --help``."""
