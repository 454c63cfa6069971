"""Matrices of transitions: which are legal, and what of them matters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["double_center", "legal_start_end", "legal_transitions"]


def double_center(transitions: Tensor) -> Tensor:
    r"""D_ij = A_ij − mean of row i − mean of column j + mean of all: what of A does not depend on the gauge (step D4).

    Offsets :math:`A_{ij} \to A_{ij} + r_i + c_j` can be moved into the emissions without changing any path's
    probability, up to the two ends. D is what remains.

    Args:
        transitions: ``(..., k, k)``.

    Returns:
        the same shape; rows and columns add up to zero.

    Raises:
        ValueError: the last two sizes differ.

    Example:
        >>> A = torch.tensor([[1.0, 2.0], [3.0, 8.0]])
        >>> double_center(A)
        tensor([[ 1., -1.],
                [-1.,  1.]])
        >>> torch.equal(double_center(A + torch.tensor([[5.0], [7.0]])), double_center(A))
        True

    Source: chapter *crf-learning-rate*, step D4.
    """
    if transitions.dim() < 2 or transitions.shape[-1] != transitions.shape[-2]:
        raise ValueError(f"transitions has shape {tuple(transitions.shape)}, not (..., tags, tags)")
    rows, columns = transitions.mean(-1, keepdim=True), transitions.mean(-2, keepdim=True)
    return transitions - rows - columns + rows.mean(-2, keepdim=True)


_SCHEMES = {  # letters of the scheme; (letters after which, letters that follow) of steps inside and between spans
    "bmes": ("bmes", ("bm", "me"), ("se", "sb"), "sb", "se"),
    "bio": ("bio", ("bi", "i"), ("bio", "bo"), "bo", "bio"),
}


def _parsed(tags: Sequence[str], scheme: str) -> list[tuple[str, str]]:
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme={scheme!r} is not known; choose one of {', '.join(map(repr, _SCHEMES))}")
    out = []
    for tag in tags:
        letter, _, kind = tag.partition("-")
        if letter.lower() not in _SCHEMES[scheme][0] or len(letter) != 1:
            raise ValueError(f"the tag {tag!r} does not belong to the scheme {scheme!r}")
        out.append((letter.lower(), kind))
    if not out:
        raise ValueError("tags is empty: at least one tag is needed")
    return out


def legal_transitions(tags: Sequence[str], scheme: str = "bmes") -> Tensor:
    """Which tag may follow which.

    ``"bmes"``: a word is ``s``, or ``b``, any number of ``m``, and ``e``. ``"bio"``: a span is ``b`` and any number of
    ``i``; ``o`` is outside. A tag may carry a kind after a hyphen, which stays the same within a span.

    Args:
        tags: the tags in the order of their numbers, such as ``"sbme"`` or ``["O", "B-PER", "I-PER"]``.
        scheme: ``"bmes"`` or ``"bio"``.

    Returns:
        ``(k, k)`` boolean.

    Raises:
        ValueError: an unknown scheme, or a tag that is not of the scheme.

    Example:
        >>> legal_transitions("sbme").int()
        tensor([[1, 1, 0, 0],
                [0, 0, 1, 1],
                [0, 0, 1, 1],
                [1, 1, 0, 0]], dtype=torch.int32)

    Source: https://kexue.fm/archives/7196.
    """
    parsed = _parsed(tags, scheme)
    _, inside, between, _, _ = _SCHEMES[scheme]
    return torch.tensor(
        [
            [
                (x in inside[0] and y in inside[1] and kind == other) or (x in between[0] and y in between[1])
                for y, other in parsed
            ]
            for x, kind in parsed
        ]
    )


def legal_start_end(tags: Sequence[str], scheme: str = "bmes") -> tuple[Tensor, Tensor]:
    """Which tags may begin and which may end a sentence; two ``(k,)`` booleans. As :func:`legal_transitions`.

    Example:
        >>> legal_start_end("sbme")
        (tensor([ True,  True, False, False]), tensor([ True, False, False,  True]))
    """
    parsed = _parsed(tags, scheme)
    first, last = _SCHEMES[scheme][3:]
    return torch.tensor([x in first for x, _ in parsed]), torch.tensor([x in last for x, _ in parsed])
