"""Shared helpers: files and locks, provenance, threads, processes, interrupts, Markdown tables."""
