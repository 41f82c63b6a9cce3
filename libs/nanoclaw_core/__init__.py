"""What every part shares: errors, clock, ids, principals, canonical JSON, settings; the standard library only."""

VERSION = "0.1.0"
