"""Adapts the pages for the website: index.html redirects to start.html, and links to code lead to the repository."""

import re
from pathlib import Path

REPOSITORY = "https://github.com/sheafapi/sheaf/blob/main/"


def on_page_markdown(markdown, page, **_):
    markdown = re.sub(r"<!-- not run: .* -->\n", "", markdown)
    out_of_docs = re.escape("../" * (page.file.src_uri.count("/") + 1))
    return re.sub(rf"\]\({out_of_docs}([^)]*)\)", lambda m: f"]({REPOSITORY}{m[1]})", markdown)


def on_post_build(config, **_):
    first = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=start.html"><a href="start.html">Getting started</a>'
    Path(config.site_dir, "index.html").write_text(first)
