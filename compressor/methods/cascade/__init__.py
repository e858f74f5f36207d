"""All networks of a cascade learn together while channels are chosen."""
