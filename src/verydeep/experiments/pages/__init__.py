"""Pages: a report as data, and its rendering as Markdown, HTML and SVG. Nothing here is specific to nets."""
