"""What a run found, as values, as one self-contained HTML file and as tables for the terminal.

``model`` describes the content (nothing is computed from rows here), ``html`` renders it, ``console`` prints it.
Nothing is imported here, so that plotly and jinja2 are loaded only by those who render.
"""
