"""Training data: sources of documents, and their packing into rows of tokens."""

from cola_agents.train.data.packing import IGNORED, Batch, PackedBatches, Piece, RowPacker, packed_batches

__all__ = ["IGNORED", "Batch", "PackedBatches", "Piece", "RowPacker", "packed_batches"]
