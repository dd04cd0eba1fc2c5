"""What can be wrong with a bundle."""


class BundleError(Exception):
    """Raised when a bundle cannot be used or built; each message says what is wrong and what to do."""


class BundleMissingError(BundleError):
    """Raised when there is no bundle where one was said to be."""


class BundleFormatError(BundleError):
    """Raised when ``bundle.json`` cannot be read or does not say what it must."""


class BundleDigestError(BundleError):
    """Raised when a file of a bundle is missing or is not the one that the bundle was built with."""


class BundleBuildError(BundleError):
    """Raised when a bundle cannot be built from what was given."""


class EngineError(BundleError):
    """Raised when no engine of that name exists, or the one asked for cannot run the bundle here."""
