// The format and the size of an image, or what else a file is, read from its first bytes.

/** Bytes that `sniff` needs. In a JPEG with large EXIF data, the size comes later than in other files. */
export const HEAD_BYTES = 256 * 1024;

/**
 * @param {Uint8Array} bytes - the first `HEAD_BYTES` of a file.
 * @param {{contentType: string, signatures: [number, string][][]}[]} formats - the server accepts (core/images.py).
 * @returns {{type: string | null, width?: number, height?: number}} the media type, or null if the server does not
 *     accept the format; width and height in pixels as stored, if this module can read them.
 */
export function sniff(bytes, formats) {
    const format = formats.find(({ signatures }) => startsLike(bytes, signatures));
    if (!format) return { type: null };
    const type = format.contentType;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return { type, ...(SIZE_READERS[type] ? readSize(SIZE_READERS[type], view) : {}) };
}

/** Bytes in which text is searched for what kind of text it is. */
const TEXT_BYTES = 1024;

/**
 * Return what a file is that the server does not accept, and what to do.
 *
 * @param {Uint8Array} bytes - the first `HEAD_BYTES` of a file.
 * @param {{reason: string, signatures: [number, string][][], mark: string}[]} otherFiles - see core/images.py.
 * @param {string} unknownReason - for a file of another kind.
 */
export function reasonOf(bytes, otherFiles, unknownReason) {
    const text = String.fromCharCode(...bytes.subarray(0, TEXT_BYTES)).toLowerCase();
    const isOf = ({ signatures, mark }) => startsLike(bytes, signatures) || (mark && text.includes(mark));
    return otherFiles.find(isOf)?.reason ?? unknownReason;
}

function startsLike(bytes, signatures) {
    return signatures.some((signature) => signature.every(([offset, magic]) => startsWith(bytes, magic, offset)));
}

// The browser reports the sizes of other formats once it has decoded them.
const SIZE_READERS = {
    "image/jpeg": readJpeg,
    "image/png": (view) => ({ width: view.getUint32(16), height: view.getUint32(20) }),
    "image/gif": (view) => ({ width: view.getUint16(6, true), height: view.getUint16(8, true) }),
    "image/bmp": (view) => ({ width: view.getInt32(18, true), height: Math.abs(view.getInt32(22, true)) }),
};

/** Read the segments of a JPEG up to its frame header (ITU-T T.81, annex B). */
function readJpeg(view) {
    for (let at = 2; ; at += 2 + view.getUint16(at + 2)) {
        const marker = view.getUint8(at + 1);
        if (view.getUint8(at) !== 0xff || marker === 0xff) throw new RangeError("not a segment");
        if (marker < 0xc0 || marker > 0xcf || [0xc4, 0xc8, 0xcc].includes(marker)) continue;
        return { width: view.getUint16(at + 7), height: view.getUint16(at + 5) };
    }
}

function startsWith(bytes, magic, offset) {
    if (bytes.length < offset) return false;
    return [...magic].every((character, index) => bytes[offset + index] === character.charCodeAt(0));
}

function readSize(reader, view) {
    try {
        return reader(view);
    } catch (error) {
        if (error instanceof RangeError) return {}; // the header is longer than `view`
        throw error;
    }
}
