"""Files, provenance, threads and processes: what every other room uses."""
