"""Footage without an end: frames from a pipe, a device or a stream, as they come."""
