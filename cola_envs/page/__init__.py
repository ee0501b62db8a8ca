"""An HTML page, one file, that shows episodes, a codebook, a training run and a search tree.

``log.py`` records an episode, ``pieces.py`` divides a row's text into pieces, and ``write.py`` puts data,
scripts and style into one file. Its parts are ``look.html``, ``look.css`` and the scripts ``base.js`` (nodes,
numbers), ``viewer.js`` (an episode), ``views.js`` (the other views) and ``page.js`` (tabs, keys).
"""
