// Where files come from: a drop (files, folders), a paste, a choice. Each source is `{name, size, open}`, where `open`
// returns the file's content; zips are listed, not unpacked.

import { ZipError, zipFiles } from "./zip.js";

/** Files that systems leave in folders and that no user means to classify. */
const LITTER = /(^|\/)(\.|__MACOSX\/|Thumbs\.db$|desktop\.ini$)/i;

/**
 * Yield the sources in what was dropped or pasted. To be called before the event's handler returns: what was dropped
 * can only be read until then.
 *
 * @param {DataTransfer} transfer
 * @param {number} maxBytes - bound of one file of a zip, in bytes.
 */
export function transferred(transfer, maxBytes) {
    const files = [...transfer.items].filter((item) => item.kind === "file");
    const roots = files.map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
    return sources(roots.filter(Boolean), maxBytes);
}

/** Yield the sources in `roots`: files, and entries of a file system. */
export async function* sources(roots, maxBytes) {
    for (const root of roots) {
        if (root.isDirectory) {
            yield* sources(await children(root), maxBytes);
        } else {
            const file = root instanceof File ? root : await new Promise((resolve, fail) => root.file(resolve, fail));
            yield* unpacked(file, maxBytes);
        }
    }
}

async function* unpacked(file, maxBytes) {
    const path = file.webkitRelativePath || file.name;
    if (LITTER.test(path)) return;
    if (!/\.zip$/i.test(file.name)) {
        yield { name: file.name, size: file.size, open: async () => file };
        return;
    }
    try {
        for (const entry of await zipFiles(file, maxBytes)) {
            if (!LITTER.test(entry.name)) yield { ...entry, name: entry.name.split("/").pop() };
        }
    } catch (error) {
        const broken = error instanceof ZipError ? error : new ZipError("the zip could not be read");
        yield { name: file.name, size: file.size, open: () => Promise.reject(broken) };
    }
}

/** A directory gives its entries in portions, of 100 in Chromium, and then an empty one. */
async function children(directory) {
    const reader = directory.createReader();
    const found = [];
    for (;;) {
        const portion = await new Promise((resolve, fail) => reader.readEntries(resolve, fail));
        if (!portion.length) return found;
        found.push(...portion);
    }
}
