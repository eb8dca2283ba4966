"""What mkdocs does beside building the pages.

The first page is README.md, the last one CHANGELOG.md. Both are written to be read elsewhere too (PyPI, GitHub), so
their links are addresses. Here the links become the pages and pictures of the site, and the badges are left out: the
site loads nothing from elsewhere. In the navigation a folder stands for all of its pages.
"""

import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

LOG = logging.getLogger("mkdocs.plugins.saestore")  # below mkdocs' own: with --strict its warnings are errors
ROOT = Path(__file__).parent
PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}
BLOB = "https://github.com/saestore/saestore/blob/main/"
DOCS = re.compile(rf"(?:{BLOB}|https://raw\.githubusercontent\.com/saestore/saestore/main/)docs/")
LOADED = re.compile(r"<(?:script|img|link rel=\"stylesheet\")[^>]+(?:src|href)=\"?(https?://[^\" >]+)")
BADGES = re.compile(r"<!-- badges -->.*?<!-- end -->\n", flags=re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder where the navigation names the folder."""
    docs = Path(config.docs_dir)
    for entry in config.nav or []:
        for title, path in entry.items():
            if isinstance(path, str) and (docs / path).is_dir():
                pages = sorted((docs / path).glob("*.md"), key=lambda page: (page.name != "index.md", page.name))
                entry[title] = [page.relative_to(docs).as_posix() for page in pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from files outside of docs/."""
    for page, source in PAGES.items():
        text = BADGES.sub("", (ROOT / source).read_text(encoding="utf-8"))
        text = DOCS.sub("", text)
        for made, origin in PAGES.items():
            text = text.replace(f"{BLOB}{origin}", made)
        files.append(File.generated(config, page, content=text))
    return files


def on_post_page(output: str, page: Any, config: MkDocsConfig) -> None:  # noqa: ARG001 (mkdocs names them)
    """Warn of what a page would load from elsewhere."""
    for address in set(LOADED.findall(output)):
        LOG.warning("%s loads %s", page.file.src_uri, address)
