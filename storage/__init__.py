"""Knows SQLite: commits of a foreign writer become rows; the event log."""
