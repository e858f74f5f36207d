"""Pictures and their classes, from wherever they come, as batches a training can repeat."""

from compressor.data.sources import SOURCES, load_data
from compressor.data.split import Batch, Data, Split

__all__ = ["SOURCES", "Batch", "Data", "Split", "load_data"]
