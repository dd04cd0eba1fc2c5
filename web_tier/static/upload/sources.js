// The files that the user drops, pastes or chooses, named by their paths. A folder or a zip gives a source for each of
// its files; a zip is listed but not unpacked.

import { compareNames } from "../job/orders.js";
import { ZipError, zipFiles } from "./zip.js";

/**
 * @typedef {object} Source
 * @property {string} name - the path within the folder or zip.
 * @property {number} size - bytes.
 * @property {boolean} [isHidden] - whether it is a hidden file or a system file, which no user means to classify.
 * @property {() => Promise<Blob>} [open] - returns the file's content.
 */

/** Files that systems leave in folders, and everything in a hidden folder. `@eaDir`: thumbnails of Synology's servers. */
const HIDDEN_FILE = /(^|\/)(\.(?!\.?(\/|$))|__MACOSX\/|@eaDir\/|Thumbs\.db$|desktop\.ini$)/i;
const ZIP_FILE = /\.zip$/i;
/** Entries of a folder that are read at once: each takes milliseconds, and mostly waits. */
const MAX_CONCURRENT_READS = 100;
/** A path that leads out of the folder into which its zip is unpacked. */
const OUTSIDE = /^\/|(^|\/)\.\.(\/|$)/;

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
 * Yield the sources of files and folders. What cannot be read is a source, too: its `open` rejects with the reason.
 *
 * @param {(File | FileSystemEntry)[]} roots
 * @param {number} maxBytes - bound of one file of a zip, in bytes.
 * @returns {AsyncGenerator<Source>}
 */
export async function* fileSources(roots, maxBytes) {
    if (roots[0]?.webkitRelativePath) roots.sort((a, b) => compareNames(a.webkitRelativePath, b.webkitRelativePath));
    let files = [];
    for (const [index, root] of roots.entries()) {
        const place = index % MAX_CONCURRENT_READS;
        if (place === 0) files = await Promise.all(roots.slice(index, index + MAX_CONCURRENT_READS).map(fileOf));
        const path = root instanceof File ? root.webkitRelativePath || root.name : root.fullPath.replace(/^\//, "");
        if (root.isDirectory) yield* directorySources(root, path, maxBytes);
        else if (files[place]) yield* sourcesOfFile(files[place], path, maxBytes);
        else yield unreadable(path, "it could not be read");
    }
}

/** Return the file of an entry, or null if it cannot be read. */
function fileOf(root) {
    if (root instanceof File || root.isDirectory) return root;
    return new Promise((resolve) => root.file(resolve, () => resolve(null)));
}

/** `readEntries` returns the entries in parts (100 in Chromium) and an empty part at the end. */
async function* directorySources(directory, path, maxBytes) {
    const reader = directory.createReader();
    const entries = [];
    let isWhole = true;
    for (;;) {
        const part = await new Promise((resolve) => reader.readEntries(resolve, () => resolve(null)));
        isWhole = part !== null;
        if (!part?.length) break;
        entries.push(...part);
    }
    entries.sort((a, b) => compareNames(a.name, b.name)); // a folder has no order of its own
    yield* fileSources(entries, maxBytes);
    if (!isWhole) yield unreadable(path, "not all of this folder could be read");
}

/** @returns {Source} */
function unreadable(name, reason, size = 0) {
    return { name, size, open: () => Promise.reject(new Error(reason)) };
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
        yield unreadable(path, error instanceof ZipError ? error.message : "the zip could not be read", file.size);
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
    if (OUTSIDE.test(name)) return () => Promise.reject(new ZipError("its path leads out of the zip"));
    if (!ZIP_FILE.test(name)) return open;
    return () => Promise.reject(new ZipError("a zip inside a zip: unpack it, then add its images"));
}
