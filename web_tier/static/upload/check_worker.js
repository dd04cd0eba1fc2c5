// A web worker that decodes one file at a time to check that it is an image, and shrinks or converts it if necessary.

import { HEAD_BYTES, sniff } from "./sniff.js";

/** The browser decodes no image of more pixels: it may be a decompression bomb, or need too much memory. */
const MAX_DECODED_PIXELS = 120_000_000;
const JPEG_QUALITY = 0.92;
/** Gives thumbnails of 3 to 5 KB. */
const THUMBNAIL_QUALITY = 0.7;
/** An image of at most this many bytes, and sides of at most this many pixels, is its own thumbnail. */
const SMALL_BYTES = 6 * 1024;
const SMALL_SIDE = 512;

class RejectionError extends Error {}

self.addEventListener("message", async ({ data: { file, limits } }) => {
    try {
        const outcome = await check(file, limits);
        self.postMessage(outcome, outcome.picture ? [outcome.picture.bytes] : []);
    } catch (error) {
        const reason = error instanceof RejectionError ? error.message : `it could not be read: ${error.message}`;
        self.postMessage({ reason });
    }
});

/**
 * Check a file. Raises RejectionError if the server would not accept it.
 *
 * @returns {Promise<AcceptedFile>} see batch.js.
 */
async function check(file, limits) {
    if (file.size === 0) throw new RejectionError("the file is empty");
    const head = await file.slice(0, HEAD_BYTES).arrayBuffer();
    const { type, width, height } = sniff(new Uint8Array(head), limits.formats);
    if (width * height > MAX_DECODED_PIXELS) throw new RejectionError(`${width} × ${height} pixels are too many`);
    const bitmap = await decode(file);
    if (!bitmap) return acceptUndecoded(file, type, limits);
    try {
        const fitted = await fitToLimits(bitmap, file, type !== null, limits);
        const isSmall = type !== null && head.byteLength <= SMALL_BYTES && longestSide(bitmap) <= SMALL_SIDE;
        const picture = isSmall ? { type, bytes: head } : await createThumbnail(bitmap, limits.thumbnailSide);
        return { ...fitted, picture };
    } finally {
        bitmap.close();
    }
}

/** Return the image, or null if this browser cannot decode it. */
async function decode(file) {
    try {
        return await createImageBitmap(file, { imageOrientation: "from-image" });
    } catch {
        return null;
    }
}

/** Accept a file that this browser cannot decode, if the server accepts its format: the server may decode it. */
function acceptUndecoded(file, type, { maxBytes }) {
    if (type === null) throw new RejectionError("this is not an image that your browser can read");
    if (file.size > maxBytes) {
        throw new RejectionError("it is larger than the server takes, and your browser cannot shrink it");
    }
    return { blob: null, shrunk: false, converted: false, picture: null };
}

async function fitToLimits(bitmap, file, isAcceptedFormat, limits) {
    const side = longestSide(bitmap);
    const shrunk = limits.shrinkAbove > 0 && side > limits.shrinkAbove;
    if (!shrunk && bitmap.width * bitmap.height > limits.maxPixels) {
        throw new RejectionError(`${bitmap.width} × ${bitmap.height} pixels are more than the server takes`);
    }
    if (isAcceptedFormat && !shrunk && file.size <= limits.maxBytes) {
        return { blob: null, shrunk: false, converted: false };
    }
    const blob = await encodeJpeg(bitmap, shrunk ? limits.shrinkAbove / side : 1, JPEG_QUALITY);
    if (blob.size > limits.maxBytes) throw new RejectionError("it is larger than the server takes, also as a JPEG");
    return { blob, shrunk, converted: !isAcceptedFormat };
}

function longestSide({ width, height }) {
    return Math.max(width, height);
}

async function createThumbnail(bitmap, side) {
    const blob = await encodeJpeg(bitmap, Math.min(1, side / longestSide(bitmap)), THUMBNAIL_QUALITY);
    return { type: blob.type, bytes: await blob.arrayBuffer() };
}

/** Encode the image on white, since a JPEG has no transparency. */
async function encodeJpeg(bitmap, scale, quality) {
    const width = Math.max(1, Math.round(bitmap.width * scale));
    const height = Math.max(1, Math.round(bitmap.height * scale));
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { alpha: false });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, width, height);
    return canvas.convertToBlob({ type: "image/jpeg", quality });
}
