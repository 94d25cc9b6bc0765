"""A comparison as one HTML page: `page(what compare.json holds) -> str` (floor 5). Reads top down: page.html, whole.py,
parts.py, shown.py, charts.py, markup.py."""

from fewstep.compare.page.whole import page as page
