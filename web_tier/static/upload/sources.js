// The files that the user drops, pastes or chooses. A folder or a zip gives a source for each of its files; a zip is
// listed but not unpacked.

import { ZipError, zipFiles } from "./zip.js";

/** @typedef {{name: string, size: number, open: () => Promise<Blob>}} Source - `open` returns the file's content. */

/** Files that operating systems leave in folders and that no user means to classify. */
const SYSTEM_FILE = /(^|\/)(\.|__MACOSX\/|Thumbs\.db$|desktop\.ini$)/i;

/**
 * Yield the sources of a drop or a paste. Call this before the event's handler returns: afterwards the browser no
 * longer allows access to `transfer`.
 *
 * @param {DataTransfer} transfer
 * @param {number} maxBytes - bound of one file of a zip, in bytes.
 */
export function transferSources(transfer, maxBytes) {
    const files = [...transfer.items].filter((item) => item.kind === "file");
    const roots = files.map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
    return fileSources(roots.filter(Boolean), maxBytes);
}

/**
 * Yield the sources of files and folders.
 *
 * @param {(File | FileSystemEntry)[]} roots
 * @param {number} maxBytes - bound of one file of a zip, in bytes.
 * @returns {AsyncGenerator<Source>}
 */
export async function* fileSources(roots, maxBytes) {
    for (const root of roots) {
        if (root.isDirectory) {
            yield* fileSources(await readDirectory(root), maxBytes);
        } else {
            const file = root instanceof File ? root : await new Promise((resolve, fail) => root.file(resolve, fail));
            yield* sourcesOfFile(file, maxBytes);
        }
    }
}

async function* sourcesOfFile(file, maxBytes) {
    const path = file.webkitRelativePath || file.name;
    if (SYSTEM_FILE.test(path)) return;
    if (!/\.zip$/i.test(file.name)) {
        yield { name: file.name, size: file.size, open: async () => file };
        return;
    }
    try {
        for (const entry of await zipFiles(file, maxBytes)) {
            if (!SYSTEM_FILE.test(entry.name)) yield { ...entry, name: entry.name.split("/").pop() };
        }
    } catch (error) {
        const zipError = error instanceof ZipError ? error : new ZipError("the zip could not be read");
        yield { name: file.name, size: file.size, open: () => Promise.reject(zipError) };
    }
}

/** Return all entries. `readEntries` returns them in parts (100 in Chromium) and an empty part at the end. */
async function readDirectory(directory) {
    const reader = directory.createReader();
    const entries = [];
    for (;;) {
        const part = await new Promise((resolve, fail) => reader.readEntries(resolve, fail));
        if (!part.length) return entries;
        entries.push(...part);
    }
}
