"""What both ends of the wire agree on: errors, run file, messages, headers. No torch."""

__version__ = "0.1.0"
PROTOCOL_VERSION = 11
