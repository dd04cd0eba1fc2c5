// Reads the files of a zip archive in the browser (PKWARE APPNOTE 6.3.10). A file is inflated only when it is opened,
// and never beyond the size that the archive declares.

const END_SIGNATURE = 0x06054b50;
const ENTRY_SIGNATURE = 0x02014b50;
const END_BYTES = 22;
const ENTRY_HEADER_BYTES = 46;
const MAX_COMMENT_BYTES = 0xffff;
const LOCAL_HEADER_BYTES = 30;
const STORED = 0;
const DEFLATED = 8;
/** An offset with this value stands in a zip64 record, which this module does not read. */
const ZIP64_OFFSET = 0xffffffff;

/** Raised when an archive cannot be read. Its message is shown to the user. */
export class ZipError extends Error {}

/**
 * List the files of an archive.
 *
 * @param {Blob} archive
 * @param {number} maxBytes - a larger file is not inflated: `open` throws.
 * @returns {Promise<{name: string, size: number, open: () => Promise<Blob>}[]>} `open` throws ZipError.
 */
export async function zipFiles(archive, maxBytes) {
    const { count, offset, size } = await readEnd(archive);
    const view = await readView(archive, offset, size);
    const files = [];
    for (let at = 0, index = 0; index < count; index += 1) {
        const isComplete = at + ENTRY_HEADER_BYTES <= view.byteLength;
        if (!isComplete || view.getUint32(at, true) !== ENTRY_SIGNATURE) throw new ZipError("the zip is damaged");
        const entry = readEntry(view, at);
        at += entry.length;
        if (!entry.name.endsWith("/")) files.push({ ...entry, open: () => openEntry(archive, entry, maxBytes) });
    }
    return files;
}

async function readView(blob, from, length) {
    return new DataView(await blob.slice(from, from + length).arrayBuffer());
}

/** Return where the central directory is, from the record at the end of the archive. */
async function readEnd(archive) {
    const from = Math.max(0, archive.size - END_BYTES - MAX_COMMENT_BYTES);
    const view = await readView(archive, from, archive.size - from);
    for (let at = view.byteLength - END_BYTES; at >= 0; at -= 1) {
        if (view.getUint32(at, true) === END_SIGNATURE) {
            const offset = view.getUint32(at + 16, true);
            if (offset === ZIP64_OFFSET) throw new ZipError("zips above 4 GB are not supported: drop the folder");
            return { count: view.getUint16(at + 10, true), size: view.getUint32(at + 12, true), offset };
        }
    }
    throw new ZipError("this is not a zip, or it is incomplete");
}

function readEntry(view, at) {
    const nameLength = view.getUint16(at + 28, true);
    const name = new Uint8Array(view.buffer, view.byteOffset + at + ENTRY_HEADER_BYTES, nameLength);
    return {
        name: new TextDecoder().decode(name).replaceAll("\\", "/"), // as some Windows programs write paths
        isEncrypted: (view.getUint16(at + 8, true) & 1) === 1,
        method: view.getUint16(at + 10, true),
        packedSize: view.getUint32(at + 20, true),
        size: view.getUint32(at + 24, true),
        offset: view.getUint32(at + 42, true),
        length: ENTRY_HEADER_BYTES + nameLength + view.getUint16(at + 30, true) + view.getUint16(at + 32, true),
    };
}

async function openEntry(archive, entry, maxBytes) {
    if (entry.isEncrypted) throw new ZipError("it is encrypted in the zip");
    if (entry.size > maxBytes) throw new ZipError("it is too large to be unpacked here");
    const header = await readView(archive, entry.offset, LOCAL_HEADER_BYTES);
    if (header.byteLength < LOCAL_HEADER_BYTES) throw new ZipError("the zip is damaged");
    const from = entry.offset + LOCAL_HEADER_BYTES + header.getUint16(26, true) + header.getUint16(28, true);
    const packed = archive.slice(from, from + entry.packedSize);
    if (entry.method === STORED) return packed;
    if (entry.method !== DEFLATED) throw new ZipError("the zip uses a compression that browsers cannot read");
    return inflate(packed, entry.size);
}

async function inflate(packed, size) {
    const reader = packed.stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
    const chunks = [];
    for (let length = 0; ; ) {
        const { done, value } = await reader.read().catch(() => Promise.reject(new ZipError("the zip is damaged")));
        if (done) return new Blob(chunks);
        length += value.length;
        if (length > size) {
            await reader.cancel();
            throw new ZipError("it is larger than the zip says");
        }
        chunks.push(value);
    }
}
