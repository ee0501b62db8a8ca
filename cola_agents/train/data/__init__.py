"""Training data: sources of documents, and their packing into rows of tokens."""
