"""Pages: what a report says as data, and how that becomes Markdown, HTML and SVG. They know nothing of nets."""
