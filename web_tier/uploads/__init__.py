"""Uploads: an image is read from the request, validated, stored, recorded and enqueued."""
