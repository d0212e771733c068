"""Checkpoint and restore of a specimen: what CRIU does for any process, small enough to read."""
