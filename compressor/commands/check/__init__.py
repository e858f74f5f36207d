"""`compress check`: compare the size, the speed and the accuracy of a candidate with those of a baseline."""
