"""Which addresses programs call: they get problem JSON where people get a page, and may be called across origins."""

_FOR_PROGRAMS = ("/api/", "/healthz", "/readyz", "/inference/", "/predictions/", "/classify", "/file-upload")


def is_for_programs(path: str) -> bool:
    """Return whether `path` is one that programs call, whether or not there is anything at it."""
    return path.startswith(_FOR_PROGRAMS)
