// The header of a JPEG (ITU-T T.81, annex B) with its EXIF data (CIPA DC-008), and whether this browser may redraw it.

const APP1 = 0xe1;
const EXIF = "Exif\0\0";
const ORIENTATION = 0x0112;
/** The type of an EXIF value of 16 bits. */
const SHORT = 3;

/**
 * Read the segments of a JPEG up to its frame header. Throws RangeError if `view` ends before it, or has
 * something else between segments.
 *
 * @param {DataView} view - its first bytes.
 * @returns {{width: number, height: number, isPlain: boolean}} as stored, in pixels. The server and browsers show the
 *     same picture if `isPlain`: they differ in CMYK, in 12 bits and in damaged EXIF data.
 */
export function readJpeg(view) {
    const orientations = [];
    for (let at = 2; ; at += 2 + view.getUint16(at + 2)) {
        const marker = view.getUint8(at + 1);
        if (view.getUint8(at) !== 0xff || marker === 0xff) throw new RangeError("not a segment");
        if (marker === APP1 && textAt(view, at + 4, EXIF.length) === EXIF) orientations.push(readOrientation(view, at));
        if (marker < 0xc0 || marker > 0xcf || [0xc4, 0xc8, 0xcc].includes(marker)) continue;
        const [bits, height, width] = [view.getUint8(at + 4), view.getUint16(at + 5), view.getUint16(at + 7)];
        const isColor = [1, 3].includes(view.getUint8(at + 9));
        return { width, height, isPlain: bits === 8 && isColor && orientations.length < 2 && !orientations.includes(null) };
    }
}

function textAt(view, at, length) {
    return String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, length));
}

/** Return the orientation of the EXIF segment at `at`, 1 to 8; 1 if it has none; null if it is not as EXIF defines it. */
function readOrientation(view, at) {
    const tiff = at + 4 + EXIF.length;
    const isLittle = textAt(view, tiff, 4) === "II*\0";
    if (!isLittle && textAt(view, tiff, 4) !== "MM\0*") return null;
    const directory = tiff + view.getUint32(tiff + 4, isLittle);
    const count = view.getUint16(directory, isLittle);
    for (let entry = directory + 2; entry < directory + 2 + 12 * count; entry += 12) {
        if (view.getUint16(entry, isLittle) !== ORIENTATION) continue;
        const isShort = view.getUint16(entry + 2, isLittle) === SHORT && view.getUint32(entry + 4, isLittle) === 1;
        const value = view.getUint16(entry + 8, isLittle);
        return isShort && value >= 1 && value <= 8 ? value : null;
    }
    return 1;
}
