"""Credit assignment: the value of every action, measured by many continuations of it."""
