"""The pipeline of the book: sources are executed, checked and turned into pages.

``notebooks/<part>/<slug>.py`` (py:percent) → :mod:`~kexue_lib.book.convert` → papermill, in
:mod:`~kexue_lib.book.chapters` → ``book/chapters/<part>/<slug>.ipynb`` → jupyter-book, in
:mod:`~kexue_lib.book.html` → ``_build/html``.

The command line is :mod:`kexue_lib.book.cli` (``kexue --help``). Nothing heavy is imported before it is needed.
"""
