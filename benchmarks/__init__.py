"""Measurements: what is claimed anywhere in this project is measured here."""
