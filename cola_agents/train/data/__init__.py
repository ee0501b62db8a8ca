"""Documents to train on: where they come from, and how they are packed into rows of tokens."""

from cola_agents.train.data.packing import IGNORED, Batch, PackedBatches, Piece, RowPacker, packed_batches

__all__ = ["IGNORED", "Batch", "PackedBatches", "Piece", "RowPacker", "packed_batches"]
