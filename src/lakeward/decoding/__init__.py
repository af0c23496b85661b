"""Bytes to Arrow columns, with no Python per record."""
