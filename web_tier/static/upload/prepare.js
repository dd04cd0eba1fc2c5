// A worker: decodes one file at a time to see that it is an image, and makes a smaller one of it where that is needed.

import { HEAD_BYTES, sniff } from "./formats.js";

/** Most pixels that a browser is asked to decode; more is a bomb, or needs more memory than a page should take. */
const DECODABLE_PIXELS = 120_000_000;
const JPEG_QUALITY = 0.92;
/** Of the small picture that stays in this browser: 3 to 5 KB. */
const PICTURE_QUALITY = 0.7;
/** A file of no more bytes than these, and sides of no more pixels, is a small picture as it is. */
const SMALL_BYTES = 6 * 1024;
const SMALL_SIDE = 512;

class Refusal extends Error {}

self.addEventListener("message", async ({ data: { file, limits } }) => {
    try {
        const outcome = await prepare(file, limits);
        self.postMessage(outcome, outcome.picture ? [outcome.picture.bytes] : []);
    } catch (error) {
        const reason = error instanceof Refusal ? error.message : `it could not be read: ${error.message}`;
        self.postMessage({ reason });
    }
});

/** Return what to send for `file`, where `blob` is null the file itself, and a small picture of it if there is one. */
async function prepare(file, limits) {
    if (file.size === 0) throw new Refusal("the file is empty");
    const head = await file.slice(0, HEAD_BYTES).arrayBuffer();
    const { type, width, height } = sniff(new Uint8Array(head), limits.formats);
    if (width * height > DECODABLE_PIXELS) throw new Refusal(`${width} × ${height} pixels are too many`);
    const bitmap = await decoded(file);
    if (!bitmap) return unread(file, type, limits);
    try {
        const fit = await fitted(bitmap, file, type !== null, limits);
        const isSmall = type !== null && head.byteLength <= SMALL_BYTES && longestSide(bitmap) <= SMALL_SIDE;
        const picture = isSmall ? { type, bytes: head } : await small(bitmap, limits.pictureSide);
        return { ...fit, picture };
    } finally {
        bitmap.close();
    }
}

/** Return the image; null if this browser cannot decode it. */
async function decoded(file) {
    try {
        return await createImageBitmap(file, { imageOrientation: "from-image" });
    } catch {
        return null;
    }
}

/** Return that a file goes to the server as it is: the server may decode what this browser cannot, or says what is wrong. */
function unread(file, type, { maxBytes }) {
    if (type === null) throw new Refusal("this is not an image that your browser can read");
    if (file.size > maxBytes) throw new Refusal("it is larger than the server takes, and your browser cannot shrink it");
    return { blob: null, shrunk: false, converted: false, picture: null };
}

async function fitted(bitmap, file, taken, limits) {
    const longest = longestSide(bitmap);
    const shrinks = limits.shrinkAbove > 0 && longest > limits.shrinkAbove;
    const pixels = bitmap.width * bitmap.height;
    if (!shrinks && pixels > limits.maxPixels) {
        throw new Refusal(`${bitmap.width} × ${bitmap.height} pixels are more than the server takes`);
    }
    if (taken && !shrinks && file.size <= limits.maxBytes) return { blob: null, shrunk: false, converted: false };
    const blob = await asJpeg(bitmap, shrinks ? limits.shrinkAbove / longest : 1, JPEG_QUALITY);
    if (blob.size > limits.maxBytes) throw new Refusal("it is larger than the server takes, also as a JPEG");
    return { blob, shrunk: shrinks, converted: !taken };
}

function longestSide({ width, height }) {
    return Math.max(width, height);
}

async function small(bitmap, side) {
    const blob = await asJpeg(bitmap, Math.min(1, side / longestSide(bitmap)), PICTURE_QUALITY);
    return { type: blob.type, bytes: await blob.arrayBuffer() };
}

/** Draw the image on white, since a JPEG has no transparency. */
async function asJpeg(bitmap, scale, quality) {
    const width = Math.max(1, Math.round(bitmap.width * scale));
    const height = Math.max(1, Math.round(bitmap.height * scale));
    const canvas = new OffscreenCanvas(width, height);
    const pen = canvas.getContext("2d", { alpha: false });
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, 0, 0, width, height);
    return canvas.convertToBlob({ type: "image/jpeg", quality });
}
