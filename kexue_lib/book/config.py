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
    f"The repository's URL in _config.yml is still the placeholder {PLACEHOLDER}: the book has no launch buttons, no "
    "absolute addresses (sitemap, link previews, canonical links), and the setup cell cannot install kexue_lib on "
    "Colab. Once the repository is published, set `repository: url:` in _config.yml to its address and run "
    "`kexue build` again."
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

    @property
    def github(self) -> tuple[str, str] | None:
        """Owner and name of the repository, if it is one on GitHub."""
        host, _, path = self.url.removeprefix("https://").partition("/")
        owner, _, name = path.partition("/")
        return (owner, name) if host == "github.com" and owner and name and "/" not in name else None

    @property
    def site(self) -> str:
        """The address at which readers find the book, with a slash at its end; empty while it is not published.

        It is ``html: baseurl:`` of ``_config.yml`` if that is set, else the address of the repository's GitHub Pages.
        """
        given = str((self.content.get("html") or {}).get("baseurl") or "")
        if not self.published:
            return ""
        if not given and self.github:
            owner, name = self.github
            given = f"https://{owner.lower()}.github.io/" + (
                "" if name.lower() == f"{owner.lower()}.github.io" else name
            )
        return given.rstrip("/") + "/" if given else ""

    @property
    def colab(self) -> str:
        """What comes before a notebook's path in its address on Colab; empty if Colab cannot open the repository."""
        if not self.published or not self.github:
            return ""
        return f"https://colab.research.google.com/github/{'/'.join(self.github)}/blob/{self.branch}/"


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
