"""Small images, made when asked for."""

from io import BytesIO

from PIL import Image


def picture(form: str = "JPEG", size: tuple[int, int] = (16, 12), shade: int = 0) -> bytes:
    """Return an image file of one colour."""
    body = BytesIO()
    Image.new("RGB", size, (shade % 256, 80, 160)).save(body, form)
    return body.getvalue()
