"""Which channels belong together: `trace` gives the `ChannelGraph` of a network."""
