"""Where several processes test at once (``-n``), each of them and what it starts computes with one thread."""

import os

if os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is first imported
