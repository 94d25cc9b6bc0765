"""A comparison as one HTML page: `page(what compare.json holds) -> str`. Reads top down: page.html, whole.py,
parts.py, shown.py, charts.py, markup.py."""

from fewstep.compare.page.page import page as page
