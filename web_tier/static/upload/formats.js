// What the first bytes of a file say: which format it is, whether the server takes it as it is, and how large it is.
// The server's own list is in core/images.py.

/** Bytes that `sniff` needs to see; the size of a JPEG with large EXIF data stands further in than that of others. */
export const HEAD_BYTES = 256 * 1024;

/**
 * @param {Uint8Array} bytes - the first `HEAD_BYTES` of a file.
 * @returns {{type: string | null, width?: number, height?: number}} the media type of what the server takes; width and
 *     height in pixels where the header tells them.
 */
export function sniff(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (const [type, mark, offset, size] of FORMATS) {
        if (startsWith(bytes, mark, 0) && bytes.length > offset) return { type, ...sizeOrNothing(size, view) };
    }
    return { type: startsWith(bytes, "RIFF", 0) && startsWith(bytes, "WEBP", 8) ? "image/webp" : null };
}

const FORMATS = [
    ["image/jpeg", "\xff\xd8\xff", 2, jpegSize],
    ["image/png", "\x89PNG\r\n\x1a\n", 24, (view) => ({ width: view.getUint32(16), height: view.getUint32(20) })],
    ["image/gif", "GIF8", 10, (view) => ({ width: view.getUint16(6, true), height: view.getUint16(8, true) })],
    ["image/bmp", "BM", 26, (view) => ({ width: view.getInt32(18, true), height: Math.abs(view.getInt32(22, true)) })],
];

function startsWith(bytes, mark, offset) {
    return [...mark].every((character, index) => bytes[offset + index] === character.charCodeAt(0));
}

function sizeOrNothing(size, view) {
    try {
        return size(view);
    } catch (error) {
        if (error instanceof RangeError) return {}; // the header goes on behind what we have
        throw error;
    }
}

// Walks the segments of a JPEG to its frame header (ITU-T T.81, annex B).
function jpegSize(view) {
    for (let at = 2; ; at += 2 + view.getUint16(at + 2)) {
        const marker = view.getUint8(at + 1);
        const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
        if (isFrame) return { width: view.getUint16(at + 7), height: view.getUint16(at + 5) };
    }
}
