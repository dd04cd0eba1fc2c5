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
/** A size or offset with this value stands in the zip64 field of its entry. */
const IN_ZIP64 = 0xffffffff;
const ZIP64_END_SIGNATURE = 0x06064b50;
/** The zip64 record of the end, and its locator, which stand before the record of the end. */
const ZIP64_END_BYTES = 56 + 20;
const ZIP64_FIELD = 0x0001;
const UNICODE_PATH_FIELD = 0x7075;
/** Flag of an entry with a name in UTF-8. */
const IS_UTF8 = 1 << 11;
/** The characters of the bytes from 128 on in code page 437, in which names without that flag are. */
const CP437 =
    "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐" +
    "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ";

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
    const { start, size, shift } = await readEnd(archive);
    const view = await readView(archive, start, size);
    const files = [];
    // By its size: the archive states the number of files in 16 bits, and some programs write more files than that.
    for (let at = 0; at < size; ) {
        const isComplete = at + ENTRY_HEADER_BYTES <= view.byteLength;
        if (!isComplete || view.getUint32(at, true) !== ENTRY_SIGNATURE) throw new ZipError("the zip is damaged");
        const entry = readEntry(view, at);
        at += entry.length;
        entry.offset += shift;
        if (!entry.name.endsWith("/")) files.push({ ...entry, open: () => openEntry(archive, entry, maxBytes) });
    }
    if (!files.length) throw new ZipError("the zip has no files");
    return files;
}

async function readView(blob, from, length) {
    return new DataView(await blob.slice(from, from + length).arrayBuffer());
}

/**
 * Return where the list of files is, and its size, from the record at the end of the archive; `shift` is the number of
 * bytes that some program has put before the archive.
 */
async function readEnd(archive) {
    const from = Math.max(0, archive.size - END_BYTES - MAX_COMMENT_BYTES - ZIP64_END_BYTES);
    const view = await readView(archive, from, archive.size - from);
    for (let at = view.byteLength - END_BYTES; at >= 0; at -= 1) {
        if (view.getUint32(at, true) !== END_SIGNATURE) continue;
        const zip64 = at - ZIP64_END_BYTES;
        const isZip64 = zip64 >= 0 && view.getUint32(zip64, true) === ZIP64_END_SIGNATURE;
        const end = from + (isZip64 ? zip64 : at);
        const size = isZip64 ? readLong(view, zip64 + 40) : view.getUint32(at + 12, true);
        const offset = isZip64 ? readLong(view, zip64 + 48) : view.getUint32(at + 16, true);
        if (end - size < offset) throw new ZipError("the zip is damaged");
        return { start: end - size, size, shift: end - size - offset };
    }
    throw new ZipError("this is not a zip, or it is incomplete");
}

/** Return a number of 64 bits; sizes and offsets of files that exist are exact. */
function readLong(view, at) {
    return Number(view.getBigUint64(at, true));
}

function readEntry(view, at) {
    const nameLength = view.getUint16(at + 28, true);
    const extraLength = view.getUint16(at + 30, true);
    const nameAt = at + ENTRY_HEADER_BYTES;
    if (nameAt + nameLength + extraLength > view.byteLength) throw new ZipError("the zip is damaged");
    const name = new Uint8Array(view.buffer, view.byteOffset + nameAt, nameLength);
    const extra = readExtra(new DataView(view.buffer, view.byteOffset + nameAt + nameLength, extraLength));
    const flags = view.getUint16(at + 8, true);
    const entry = {
        name: decodeName(name, flags, extra.get(UNICODE_PATH_FIELD)).replaceAll("\\", "/"), // as Windows programs may write
        isEncrypted: (flags & 1) === 1,
        method: view.getUint16(at + 10, true),
        packedSize: view.getUint32(at + 20, true),
        size: view.getUint32(at + 24, true),
        offset: view.getUint32(at + 42, true),
        length: ENTRY_HEADER_BYTES + nameLength + extraLength + view.getUint16(at + 32, true),
    };
    const large = ["size", "packedSize", "offset"].filter((key) => entry[key] === IN_ZIP64);
    const zip64 = extra.get(ZIP64_FIELD);
    if (large.length && !(zip64?.byteLength >= 8 * large.length)) throw new ZipError("the zip is damaged");
    large.forEach((key, index) => (entry[key] = readLong(zip64, 8 * index)));
    return entry;
}

/** @returns {Map<number, DataView>} the extra fields of an entry, by their kind. */
function readExtra(view) {
    const fields = new Map();
    for (let at = 0; at + 4 <= view.byteLength; ) {
        const length = Math.min(view.getUint16(at + 2, true), view.byteLength - at - 4);
        fields.set(view.getUint16(at, true), new DataView(view.buffer, view.byteOffset + at + 4, length));
        at += 4 + length;
    }
    return fields;
}

/** Return a name. Without a flag it is in code page 437, but many programs write UTF-8 without the flag. */
function decodeName(name, flags, unicodePath) {
    if (unicodePath?.byteLength > 5) {
        return new TextDecoder().decode(new Uint8Array(unicodePath.buffer, unicodePath.byteOffset + 5, unicodePath.byteLength - 5));
    }
    try {
        return new TextDecoder("utf-8", { fatal: (flags & IS_UTF8) === 0 }).decode(name);
    } catch {
        return Array.from(name, (byte) => (byte < 128 ? String.fromCharCode(byte) : CP437[byte - 128])).join("");
    }
}

async function openEntry(archive, entry, maxBytes) {
    if (entry.isEncrypted) throw new ZipError("it is encrypted in the zip");
    if (entry.size > maxBytes) throw new ZipError("it is larger than an image may be: shrink it");
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
