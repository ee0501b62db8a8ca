"""The microscope's page: one HTML file that shows episodes, a codebook, a run and a search tree.

``log.py`` keeps what an episode shows, ``pieces.py`` cuts a row into what can be read, ``write.py`` puts
data, scripts and style into one file. The page's own files are ``look.html``, ``look.css`` and the scripts:
``base.js`` (nodes, numbers), ``viewer.js`` (an episode), ``views.js`` and ``page.js`` (tabs, keys).
"""
