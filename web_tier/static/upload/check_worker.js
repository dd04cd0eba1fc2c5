// A web worker that checks one file at a time, and draws pictures of those that the user sees.

import { HEAD_BYTES, reasonOf, sniff } from "./sniff.js";

const JPEG_QUALITY = 0.92;
/** Longest side of a picture of the list, in pixels: that of a tile. */
const PICTURE_SIDE = 200;
/** As the server decodes: turned by EXIF, and without the colour profile, as models are trained (docs/formats.md). */
const DECODING = { imageOrientation: "from-image", colorSpaceConversion: "none" };

class RejectionError extends Error {}

self.addEventListener("message", async ({ data: { task, file, limits } }) => {
    try {
        self.postMessage(await (task === "check" ? check(file, limits) : draw(file)));
    } catch (error) {
        const reason = error instanceof RejectionError ? error.message : `it could not be read: ${error.message}`;
        self.postMessage({ reason });
    }
});

/**
 * Check a file as the server does. Raises RejectionError if the server would not accept it. A file is decoded only if
 * its first bytes do not say its size.
 *
 * @param {File} file
 * @param {object} limits - see check_pool.js.
 * @returns {Promise<CheckOutcome>} see batch.js.
 */
async function check(file, limits) {
    if (file.size === 0) throw new RejectionError("the file is empty: send it again");
    if (file.size > limits.maxBytes) {
        throw new RejectionError(
            `${megabytes(file.size)} is more than the ${megabytes(limits.maxBytes)} allowed: shrink it`,
        );
    }
    const head = await file.slice(0, HEAD_BYTES).arrayBuffer();
    const { type, width, height } = sniff(new Uint8Array(head), limits.formats);
    if (!type) throw new RejectionError(reasonOf(new Uint8Array(head), limits.otherFiles, limits.unknownReason));
    checkPixels(width, height, limits);
    const bitmap = width === undefined && (await decode(file));
    if (!bitmap) return { type }; // the server may be able to decode it
    try {
        checkPixels(bitmap.width, bitmap.height, limits);
        return { type };
    } finally {
        bitmap.close();
    }
}

/**
 * Return a small picture of an image, or null if this browser cannot decode it. Its URL is a `data:` URL, since the
 * browser's main process handles each `blob:` URL, which delays scrolling through thousands of images.
 */
async function draw(file) {
    const bitmap = (await decodeReduced(file)) ?? (await decode(file));
    if (!bitmap) return null;
    const blob = await encodeJpeg(bitmap, Math.min(1, PICTURE_SIDE / Math.max(bitmap.width, bitmap.height)));
    bitmap.close();
    return new FileReaderSync().readAsDataURL(blob);
}

function checkPixels(width, height, { maxPixels }) {
    if (!(width * height > maxPixels)) return; // also where the size is not known yet
    throw new RejectionError(
        `${width} x ${height} pixels is more than the ${maxPixels / 1e6} megapixels allowed: shrink it`,
    );
}

/** Return the image, or null if this browser cannot decode it. */
async function decode(file) {
    try {
        return await createImageBitmap(file, DECODING);
    } catch {
        return null;
    }
}

/** Return the image at the size of a picture or larger, or null. A JPEG of 12 megapixels takes a third of the time. */
async function decodeReduced(file) {
    try {
        const size = { desiredWidth: PICTURE_SIDE, desiredHeight: PICTURE_SIDE };
        const decoder = new ImageDecoder({ data: file.stream(), type: file.type, ...size });
        const { image } = await decoder.decode();
        decoder.close();
        const bitmap = await createImageBitmap(image);
        image.close();
        return bitmap;
    } catch {
        return null; // this browser has no such decoder, or not for this type
    }
}

function megabytes(bytes) {
    return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Encode the image on white, since a JPEG has no transparency. */
async function encodeJpeg(bitmap, scale) {
    const width = Math.max(1, Math.round(bitmap.width * scale));
    const height = Math.max(1, Math.round(bitmap.height * scale));
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { alpha: false });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, width, height);
    return canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
}
