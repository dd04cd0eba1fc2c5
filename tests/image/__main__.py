"""`python -m tests.image`: makes the images before any test asks for them, while others have the machine."""

from tests.image.conftest import IMAGES
from tests.support.booted.images import ImageToolMissingError, build_image


def main() -> None:
    """Make both images; where that cannot be done, the tests will say so."""
    try:
        build_image("worker", IMAGES)
        build_image("web", IMAGES)
    except ImageToolMissingError as error:
        print(f"no images: {error}")


if __name__ == "__main__":
    main()
