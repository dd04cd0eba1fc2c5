// Reads the files of a zip archive in the browser (PKWARE APPNOTE 6.3.10); nothing of it is inflated before it is
// asked for, and no more of a file than the archive says it holds.

const END_MARK = 0x06054b50;
const ENTRY_MARK = 0x02014b50;
const END_BYTES = 22;
const MAX_COMMENT_BYTES = 0xffff;
const LOCAL_HEADER_BYTES = 30;
const STORED = 0;
const DEFLATED = 8;
const ZIP64 = 0xffffffff;

export class ZipError extends Error {}

/**
 * List the files of an archive.
 *
 * @param {Blob} archive
 * @param {number} maxBytes - a file that would be larger than this once inflated is not inflated.
 * @returns {Promise<{name: string, size: number, open: () => Promise<Blob>}[]>} `open` throws ZipError.
 */
export async function zipFiles(archive, maxBytes) {
    const { count, offset, size } = await end(archive);
    const view = await viewOf(archive, offset, size);
    const files = [];
    for (let at = 0, index = 0; index < count; index += 1) {
        if (at + 46 > view.byteLength || view.getUint32(at, true) !== ENTRY_MARK) throw new ZipError("the zip is damaged");
        const entry = readEntry(view, at);
        at += entry.length;
        if (!entry.name.endsWith("/")) files.push({ ...entry, open: () => inflate(archive, entry, maxBytes) });
    }
    return files;
}

async function viewOf(blob, from, length) {
    return new DataView(await blob.slice(from, from + length).arrayBuffer());
}

async function end(archive) {
    const from = Math.max(0, archive.size - END_BYTES - MAX_COMMENT_BYTES);
    const view = await viewOf(archive, from, archive.size - from);
    for (let at = view.byteLength - END_BYTES; at >= 0; at -= 1) {
        if (view.getUint32(at, true) === END_MARK) {
            const found = { count: view.getUint16(at + 10, true), size: view.getUint32(at + 12, true), offset: view.getUint32(at + 16, true) };
            if (found.offset === ZIP64) throw new ZipError("zips above 4 GB are not read here: drop the folder instead");
            return found;
        }
    }
    throw new ZipError("this is not a zip, or not all of it");
}

function readEntry(view, at) {
    const nameLength = view.getUint16(at + 28, true);
    const name = new Uint8Array(view.buffer, view.byteOffset + at + 46, nameLength);
    return {
        name: new TextDecoder().decode(name),
        encrypted: (view.getUint16(at + 8, true) & 1) === 1,
        method: view.getUint16(at + 10, true),
        packed: view.getUint32(at + 20, true),
        size: view.getUint32(at + 24, true),
        offset: view.getUint32(at + 42, true),
        length: 46 + nameLength + view.getUint16(at + 30, true) + view.getUint16(at + 32, true),
    };
}

async function inflate(archive, entry, maxBytes) {
    if (entry.encrypted) throw new ZipError("it is encrypted in the zip");
    if (entry.size > maxBytes) throw new ZipError("it is too large to be unpacked here");
    const header = await viewOf(archive, entry.offset, LOCAL_HEADER_BYTES);
    if (header.byteLength < LOCAL_HEADER_BYTES) throw new ZipError("the zip is damaged");
    const from = entry.offset + LOCAL_HEADER_BYTES + header.getUint16(26, true) + header.getUint16(28, true);
    const packed = archive.slice(from, from + entry.packed);
    if (entry.method === STORED) return packed;
    if (entry.method !== DEFLATED) throw new ZipError("the zip uses a compression that browsers cannot read");
    return inflated(packed, entry.size);
}

async function inflated(packed, size) {
    const reader = packed.stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
    const pieces = [];
    for (let length = 0; ; ) {
        const { done, value } = await reader.read().catch(() => Promise.reject(new ZipError("the zip is damaged")));
        if (done) return new Blob(pieces);
        length += value.length;
        if (length > size) {
            await reader.cancel();
            throw new ZipError("it is larger than the zip says");
        }
        pieces.push(value);
    }
}
