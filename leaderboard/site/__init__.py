"""The leaderboard as one static page that needs no network: `bench site`.

content.py      a results folder as JSON values, of which everything on the page is made
drawing.py      curves and pictures that stand there without JavaScript
changes.py      what moved since an earlier version
page.py         values, template, script and style as one file, and as a folder for hosting
page.html.j2, page.css, page.js, certificate.js   what the page is made of
"""

from leaderboard.site.changes import changelog, earlier
from leaderboard.site.content import Content, read
from leaderboard.site.page import render, write_folder

__all__ = ["Content", "changelog", "earlier", "read", "render", "write_folder"]
