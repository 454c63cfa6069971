"""Regressions: all claims over seeds, scales and devices, on this machine or on a Dask cluster.

:mod:`~kexue_lib.book.regress.settings` is what was asked for. :mod:`~kexue_lib.book.regress.grid` plans the runs,
:mod:`~kexue_lib.book.regress.drive` keeps the cluster of :mod:`~kexue_lib.book.regress.cluster` busy with them,
:mod:`~kexue_lib.book.regress.task` is what a worker does, :mod:`~kexue_lib.book.regress.store` keeps one row per run
(:mod:`~kexue_lib.book.regress.row`) in a ledger. :mod:`~kexue_lib.book.regress.summary` counts over seeds,
:mod:`~kexue_lib.book.regress.compare` says what moved (in figures: :mod:`~kexue_lib.book.regress.figures`), and
:mod:`~kexue_lib.book.regress.report` writes it down.

How to use it stands in ``book/regression.md``.
"""
