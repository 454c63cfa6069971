"""What the pipeline reads from ``_config.yml``, where the repository's URL stands and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from kexue_lib.book.errors import BookError
from kexue_lib.book.project import Project

#: Stands in ``_config.yml`` until the repository is published.
PLACEHOLDER = "https://example.org/executable-kexue"

HOW_TO_SET_URL = (
    f"The repository's URL in _config.yml is still the placeholder {PLACEHOLDER}: the book has no launch buttons, and "
    "the setup cell cannot install kexue_lib on Colab. Once the repository is published, set `repository: url:` in "
    "_config.yml to its address and run `kexue build` again."
)


@dataclass(frozen=True)
class Config:
    """The repository's address and the whole of ``_config.yml``."""

    url: str
    branch: str
    content: dict[str, Any]

    @property
    def published(self) -> bool:
        """Whether the URL has been set."""
        return self.url != PLACEHOLDER


def read_config(project: Project) -> Config:
    """``_config.yml`` of a checkout.

    Raises:
        BookError: not YAML, or ``repository: url:`` is missing or no https address.
    """
    try:
        content = yaml.safe_load(project.config.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BookError(f"_config.yml is no YAML: {error}") from None
    repository = content.get("repository") if isinstance(content, dict) else None
    url = repository.get("url") if isinstance(repository, dict) else None
    if not isinstance(url, str) or not url.startswith("https://"):
        raise BookError(
            f"_config.yml: expected `repository: url:` with an https address (or the placeholder {PLACEHOLDER}), "
            f"found {url!r}."
        )
    assert isinstance(repository, dict)
    return Config(
        url=url.rstrip("/").removesuffix(".git"), branch=str(repository.get("branch", "main")), content=content
    )
