"""Inspect: from a database never seen before to a mapping, with a confidence and a reason for each line."""
