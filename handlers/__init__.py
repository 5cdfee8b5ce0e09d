"""Knows HTTP and sockets: requests in, frames out."""
