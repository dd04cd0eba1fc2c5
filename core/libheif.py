"""Decoding of HEIC by libheif, in the calling thread alone.

pillow-heif is installed for its build of libheif. Its own interface cannot decode without starting a thread, which a
sandboxed process may not: libde265 starts one for each picture unless it is asked for a negative number of threads.
https://github.com/strukturag/libheif/blob/master/libheif/api/libheif/heif_decoding.h describes the structures.
"""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint8, c_void_p
from importlib.util import find_spec
from typing import Final

from PIL import Image

_RGB_COLOURS: Final = 1
_INTERLEAVED: Final = 10
_CHROMA: Final = {"RGB": 10, "RGBA": 11}
_WITH_CODEC_THREADS: Final = 8
"""Version of the options that has a number of threads."""
_NO_THREADS: Final = -1
_MEMORY_ERROR: Final = 6
_LIMIT_EXCEEDED: Final = 1000
"""Detail of an error: a picture that is larger than its header says, for example."""


class _Error(ctypes.Structure):
    _fields_ = (("code", c_int), ("subcode", c_int), ("message", c_char_p))


class _ColourConversion(ctypes.Structure):
    _fields_ = (("version", c_uint8), ("down", c_int), ("up", c_int), ("only", c_uint8))


class _Options(ctypes.Structure):
    """`heif_decoding_options`; libheif allocates it and fills in the defaults."""

    _fields_ = (
        ("version", c_uint8),
        ("ignore_transformations", c_uint8),
        ("start_progress", c_void_p),
        ("on_progress", c_void_p),
        ("end_progress", c_void_p),
        ("progress_user_data", c_void_p),
        ("convert_hdr_to_8bit", c_uint8),
        ("strict_decoding", c_uint8),
        ("decoder_id", c_char_p),
        ("color_conversion_options", _ColourConversion),
        ("cancel_decoding", c_void_p),
        ("color_conversion_options_ext", c_void_p),
        ("ignore_sequence_editlist", c_int),
        ("output_image_nclx_profile", c_void_p),
        ("num_library_threads", c_int),
        ("num_codec_threads", c_int),
    )


def _load() -> ctypes.CDLL:
    """Return libheif; the symbols of a module are those of the libraries that it needs, too."""
    spec = find_spec("_pillow_heif")
    if spec is None or spec.origin is None:
        raise ImportError("pillow-heif is not installed")
    library = ctypes.CDLL(spec.origin)
    for name, result, arguments in (
        ("heif_context_alloc", c_void_p, ()),
        ("heif_context_free", None, (c_void_p,)),
        ("heif_context_read_from_memory_without_copy", _Error, (c_void_p, c_char_p, c_size_t, c_void_p)),
        ("heif_context_set_max_decoding_threads", None, (c_void_p, c_int)),
        ("heif_context_get_primary_image_handle", _Error, (c_void_p, POINTER(c_void_p))),
        ("heif_image_handle_release", None, (c_void_p,)),
        ("heif_image_handle_get_width", c_int, (c_void_p,)),
        ("heif_image_handle_get_height", c_int, (c_void_p,)),
        ("heif_image_handle_has_alpha_channel", c_int, (c_void_p,)),
        ("heif_decoding_options_alloc", POINTER(_Options), ()),
        ("heif_decoding_options_free", None, (POINTER(_Options),)),
        ("heif_decode_image", _Error, (c_void_p, POINTER(c_void_p), c_int, c_int, POINTER(_Options))),
        ("heif_image_release", None, (c_void_p,)),
        ("heif_image_get_primary_width", c_int, (c_void_p,)),
        ("heif_image_get_primary_height", c_int, (c_void_p,)),
        ("heif_image_get_plane_readonly", c_void_p, (c_void_p, c_int, POINTER(c_int))),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


_LIBRARY: Final = _load()


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """Return the primary picture of a HEIC file, RGB or RGBA with 8 bits, cropped, turned and mirrored as it says.

    Raises:
        ValueError: it is damaged, or has more than `max_pixels`.
        MemoryError: this process has not enough memory for it.
    """
    context = c_void_p(_LIBRARY.heif_context_alloc())
    handle = c_void_p()
    try:
        _check(_LIBRARY.heif_context_read_from_memory_without_copy(context, data, len(data), None))
        _LIBRARY.heif_context_set_max_decoding_threads(context, 0)
        _check(_LIBRARY.heif_context_get_primary_image_handle(context, byref(handle)))
        width, height = _LIBRARY.heif_image_handle_get_width(handle), _LIBRARY.heif_image_handle_get_height(handle)
        if width * height > max_pixels:
            raise ValueError(f"{width} x {height} pixels are more than its header says")
        return _decode(handle)
    finally:
        _LIBRARY.heif_image_handle_release(handle)
        _LIBRARY.heif_context_free(context)


def _decode(handle: c_void_p) -> Image.Image:
    mode = "RGBA" if _LIBRARY.heif_image_handle_has_alpha_channel(handle) else "RGB"
    picture, stride = c_void_p(), c_int()
    options = _LIBRARY.heif_decoding_options_alloc()
    try:
        if options.contents.version < _WITH_CODEC_THREADS:
            raise RuntimeError("this build of libheif is too old to decode without threads")
        options.contents.num_codec_threads = _NO_THREADS
        options.contents.convert_hdr_to_8bit = 1
        _check(_LIBRARY.heif_decode_image(handle, byref(picture), _RGB_COLOURS, _CHROMA[mode], options))
        size = _LIBRARY.heif_image_get_primary_width(picture), _LIBRARY.heif_image_get_primary_height(picture)
        plane = _LIBRARY.heif_image_get_plane_readonly(picture, _INTERLEAVED, byref(stride))
        if not plane:
            raise ValueError("no pixels were decoded")
        rows = (c_uint8 * (stride.value * size[1])).from_address(plane)
        return Image.frombytes(mode, size, rows, "raw", mode, stride.value)
    finally:
        _LIBRARY.heif_image_release(picture)
        _LIBRARY.heif_decoding_options_free(options)


def _check(error: _Error) -> None:
    if error.code == _MEMORY_ERROR and error.subcode != _LIMIT_EXCEEDED:
        raise MemoryError
    if error.code:
        raise ValueError(error.message.decode("ascii", "replace"))
