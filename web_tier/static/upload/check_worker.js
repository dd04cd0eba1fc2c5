// A web worker that decodes one file at a time to check that it is an image, and shrinks or converts it if necessary.

import { HEAD_BYTES, reasonOf, sniff } from "./sniff.js";

/** The browser decodes no image of more pixels: it may be a decompression bomb, or need too much memory. */
const MAX_DECODED_PIXELS = 120_000_000;
const JPEG_QUALITY = 0.92;
/** Gives thumbnails of 3 to 5 KB. */
const THUMBNAIL_QUALITY = 0.7;
/** An image of at most this many bytes, and sides of at most this many pixels, is its own thumbnail. */
const SMALL_BYTES = 6 * 1024;
const SMALL_SIDE = 512;

/** The last bytes of a file in which the end of an image is searched: other data may follow it. */
const TAIL_BYTES = 64 * 1024;
/** What ends every complete image of a type. */
const END_MARKS = { "image/jpeg": "\xff\xd9", "image/png": "IEND" };

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
    if (file.size === 0) throw new RejectionError("the file is empty: send it again");
    const head = await file.slice(0, HEAD_BYTES).arrayBuffer();
    const { type, width, height } = sniff(new Uint8Array(head), limits.formats);
    if (width * height > MAX_DECODED_PIXELS) {
        throw new RejectionError(`${width} x ${height} pixels is more than a browser can shrink: shrink it first`);
    }
    const bitmap = await decode(file);
    if (!bitmap) {
        if (!type) throw new RejectionError(reasonOf(new Uint8Array(head), limits.otherFiles, limits.unknownReason));
        return acceptUndecoded(file, type, limits);
    }
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

/** Accept a file that this browser cannot decode, unless its end is missing: the server may decode it. */
async function acceptUndecoded(file, type, { maxBytes }) {
    if (await isCut(file, type)) {
        const name = type.split("/")[1].toUpperCase();
        throw new RejectionError(
            `the ${name} ends after ${file.size} bytes, before the picture is complete: send it again`,
        );
    }
    if (file.size > maxBytes) {
        throw new RejectionError(
            `${megabytes(file.size)} is more than the ${megabytes(maxBytes)} allowed: export it as a smaller JPEG`,
        );
    }
    return { blob: null, shrunk: false, converted: false, picture: null };
}

async function isCut(file, type) {
    const mark = END_MARKS[type];
    if (!mark) return false;
    const tail = new Uint8Array(await file.slice(-TAIL_BYTES).arrayBuffer());
    return !new TextDecoder("latin1").decode(tail).includes(mark);
}

function megabytes(bytes) {
    return `${(bytes / 1e6).toFixed(1)} MB`;
}

async function fitToLimits(bitmap, file, isAcceptedFormat, limits) {
    const side = longestSide(bitmap);
    const shrunk = limits.shrinkAbove > 0 && side > limits.shrinkAbove;
    if (!shrunk && bitmap.width * bitmap.height > limits.maxPixels) {
        const megapixels = `${limits.maxPixels / 1e6} megapixels`;
        throw new RejectionError(
            `${bitmap.width} x ${bitmap.height} pixels is more than the ${megapixels} allowed: shrink it`,
        );
    }
    if (isAcceptedFormat && !shrunk && file.size <= limits.maxBytes) {
        return { blob: null, shrunk: false, converted: false };
    }
    const blob = await encodeJpeg(bitmap, shrunk ? limits.shrinkAbove / side : 1, JPEG_QUALITY);
    if (blob.size > limits.maxBytes) {
        const sizes = `${megabytes(blob.size)} as a JPEG is more than the ${megabytes(limits.maxBytes)} allowed`;
        throw new RejectionError(`${sizes}: shrink it`);
    }
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
