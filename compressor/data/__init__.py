"""Pictures and their classes, from wherever they come, as batches a training can repeat."""

from compressor.data.sources import SOURCES, load_data
from compressor.data.split import Bad, Batch, Data, Part, Split

__all__ = ["SOURCES", "Bad", "Batch", "Data", "Part", "Split", "load_data"]
