"""Everything that comes out of a run, from one set of frozen dataclasses: JSON, Markdown, HTML."""
