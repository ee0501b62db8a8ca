"""``python -m cola_agents``: the ``cola`` command where its script is not on the path."""

import sys

from cola_agents.cli import main

if __name__ == "__main__":
    sys.exit(main())
