"""Channels that belong together: `trace` gives the `ChannelGraph` of a network."""
