"""What the microscope's page shows, collected from a model, a run or a recording: see ``sources.py``."""
