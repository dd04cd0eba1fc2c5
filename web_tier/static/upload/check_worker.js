// A web worker that checks one file at a time, shrinks it if that changes nothing for its model, and draws pictures of
// those that the user sees.

import { HEAD_BYTES, reasonOf, sniff } from "./sniff.js";

const JPEG_QUALITY = 0.92;
/** Longest side of a picture of the list, in pixels: that of a tile. */
const PICTURE_SIDE = 200;
/** The last bytes of a JPEG in which its end mark is searched: other data may follow it. */
const TAIL_BYTES = 64 * 1024;
/** The shorter side of a redrawn photo has at least this many times the pixels to which a model scales it down. */
const MODEL_FACTOR = 2;
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
 * Check a file as the server does, and redraw a large photo if that changes nothing for its model. Raises RejectionError
 * if the server would not accept it. A file is decoded only if its first bytes do not say its size, or to redraw it.
 *
 * @param {File} file
 * @param {object} limits - see check_pool.js.
 * @returns {Promise<AcceptedFile>} see batch.js.
 */
async function check(file, limits) {
    if (file.size === 0) throw new RejectionError("the file is empty: send it again");
    if (file.size > limits.maxBytes) {
        throw new RejectionError(
            `${megabytes(file.size)} is more than the ${megabytes(limits.maxBytes)} allowed: shrink it`,
        );
    }
    const head = await file.slice(0, HEAD_BYTES).arrayBuffer();
    const { type, width, height, isPlain } = sniff(new Uint8Array(head), limits.formats);
    if (!type) throw new RejectionError(reasonOf(new Uint8Array(head), limits.otherFiles, limits.unknownReason));
    checkPixels(width, height, limits);
    const { shrinkAbove, modelSide } = limits;
    const isLarge = isPlain && shrinkAbove && modelSide && longestSide({ width, height }) > shrinkAbove;
    if (width !== undefined && !isLarge) return { blob: null };
    const bitmap = await decode(file);
    if (!bitmap) return { blob: null }; // the server may be able to decode it
    try {
        checkPixels(bitmap.width, bitmap.height, limits);
        return { blob: isLarge ? await redraw(bitmap, file, limits) : null };
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
    const blob = await encodeJpeg(bitmap, Math.min(1, PICTURE_SIDE / longestSide(bitmap)));
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

/** Return a smaller JPEG of a large photo in which its model sees the same, or null if the file itself is to be sent. */
async function redraw(bitmap, file, { shrinkAbove, modelSide }) {
    const shorter = Math.min(bitmap.width, bitmap.height);
    const scale = Math.max(shrinkAbove / longestSide(bitmap), (MODEL_FACTOR * modelSide) / shorter);
    if (scale >= 1 || !(await hasEnd(file)) || !(await (decodesAlike ??= probe()))) return null;
    const blob = await encodeJpeg(bitmap, scale);
    return blob.size < file.size ? blob : null;
}

/** Return whether a JPEG is complete: a browser may draw one that the server rejects. */
async function hasEnd(file) {
    const tail = await file.slice(-TAIL_BYTES).arrayBuffer();
    return new TextDecoder("latin1").decode(tail).includes("\xff\xd9");
}

function longestSide({ width, height }) {
    return Math.max(width, height);
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

/** Whether this browser decodes as the server does; a promise once that was tried. */
let decodesAlike = null;

/** Decode a JPEG of 16 x 8 pixels, red and green, turned by 90° (EXIF 6), with a profile that swaps red and blue. */
async function probe() {
    const response = await fetch(new URL("./probe.jpg", import.meta.url)).catch(() => null);
    const bitmap = await decode(await response?.blob());
    if (bitmap?.width !== 8) return false;
    const context = new OffscreenCanvas(8, 16).getContext("2d");
    context.drawImage(bitmap, 0, 0);
    const [red, , blue] = context.getImageData(4, 2, 1, 1).data;
    return red > 200 && blue < 50;
}
