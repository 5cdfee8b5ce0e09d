"""Decides: rows become events, events find their owners. Pure where it can be."""
