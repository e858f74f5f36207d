"""Data sets for classification, read from many sources as batches that a training can repeat."""

from compressor.data.sources import SOURCES, load_data
from compressor.data.split import Bad, Batch, Data, Part, Split

__all__ = ["SOURCES", "Bad", "Batch", "Data", "Part", "Split", "load_data"]
