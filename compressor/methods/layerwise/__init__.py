"""Methods that compare layers: information flow, and InDistill (one layer after another)."""
