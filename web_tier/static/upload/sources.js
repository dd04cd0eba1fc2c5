// The files that the user drops, pastes or chooses, named by their paths. A folder or a zip gives a source for each of
// its files; a zip is listed but not unpacked.

import { ZipError, zipFiles } from "./zip.js";

/**
 * @typedef {object} Source
 * @property {string} name - the path within the folder or zip.
 * @property {number} size - bytes.
 * @property {boolean} [isHidden] - whether it is a hidden file or a system file, which no user means to classify.
 * @property {() => Promise<Blob>} [open] - returns the file's content.
 */

/** Files that operating systems leave in folders, and everything in a hidden folder. */
const HIDDEN_FILE = /(^|\/)(\.|__MACOSX\/|Thumbs\.db$|desktop\.ini$)/i;
const ZIP_FILE = /\.zip$/i;
const { compare } = new Intl.Collator("en", { numeric: true }); // a folder has no order of its own

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
    if (roots[0]?.webkitRelativePath) roots.sort((a, b) => compare(a.webkitRelativePath, b.webkitRelativePath));
    for (const root of roots) {
        if (root.isDirectory) {
            yield* fileSources(await readDirectory(root), maxBytes);
        } else if (root instanceof File) {
            yield* sourcesOfFile(root, root.webkitRelativePath || root.name, maxBytes);
        } else {
            const file = await new Promise((resolve, fail) => root.file(resolve, fail));
            yield* sourcesOfFile(file, root.fullPath.replace(/^\//, ""), maxBytes);
        }
    }
}

async function* sourcesOfFile(file, path, maxBytes) {
    if (!ZIP_FILE.test(path) || HIDDEN_FILE.test(path)) {
        yield source(path, file.size, async () => file);
        return;
    }
    try {
        const entries = await zipFiles(file, maxBytes);
        const folder = unpackedFolder(path, entries);
        for (const entry of entries) yield source(folder + entry.name, entry.size, opener(entry));
    } catch (error) {
        const zipError = error instanceof ZipError ? error : new ZipError("the zip could not be read");
        yield source(path, file.size, () => Promise.reject(zipError));
    }
}

/** @returns {Source} */
function source(name, size, open) {
    return HIDDEN_FILE.test(name) ? { name, size, isHidden: true } : { name, size, open };
}

/**
 * Return the folder, with a slash, into which file managers unpack a zip: one with the name of the zip, unless all
 * files are in one folder already. So files of two zips have different paths.
 */
function unpackedFolder(path, entries) {
    const tops = new Set(entries.filter(({ name }) => !HIDDEN_FILE.test(name)).map(({ name }) => name.split("/", 1)[0]));
    const isOneFolder = tops.size === 1 && entries.some(({ name }) => name.includes("/") && !HIDDEN_FILE.test(name));
    return isOneFolder ? path.slice(0, path.lastIndexOf("/") + 1) : `${path.replace(ZIP_FILE, "")}/`;
}

function opener({ name, open }) {
    if (!ZIP_FILE.test(name)) return open;
    return () => Promise.reject(new ZipError("a zip inside a zip: unpack it, then add its images"));
}

/** Return all entries by name. `readEntries` returns them in parts (100 in Chromium) and an empty part at the end. */
async function readDirectory(directory) {
    const reader = directory.createReader();
    const entries = [];
    for (;;) {
        const part = await new Promise((resolve, fail) => reader.readEntries(resolve, fail));
        if (!part.length) return entries.sort((a, b) => compare(a.name, b.name));
        entries.push(...part);
    }
}
