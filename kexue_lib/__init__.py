"""Executable Kexue: the algorithms, the checked derivations and the experiments of the book.

Importing this package costs nothing: each topic module, :mod:`kexue_lib.derive`, :mod:`kexue_lib.lab` and
:mod:`kexue_lib.book` is imported when you name it.

>>> import kexue_lib
>>> kexue_lib.__version__
'0.1.0'
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
