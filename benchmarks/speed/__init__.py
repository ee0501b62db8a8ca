"""Speed and memory, measured side by side with a bare loop and with the machine's own limits."""
