// Thumbnails of images that this browser uploaded, kept in the browser: unless a job keeps its images, the server
// deletes an image once it is classified. A browser without storage (private window, full disk) keeps no thumbnails.

const DATABASE = "fleetsight";
const STORE = "pictures"; // {imageId, jobId, at (milliseconds since 1970), type, bytes}
const VERSION = 1;
const MAX_PICTURES = 20_000;
const LIFETIME_MS = 7 * 24 * 3_600_000;
/** The page does not wait longer for the browser's storage, which may hang. */
const STORAGE_TIMEOUT_MS = 3_000;

/** The picture shown for an image that neither the server nor this browser has. */
export const DELETED_URL = new URL("deleted.svg", import.meta.url).href;

let opening = null; // the promise of the database
let pendingLookups = null; // the lookups of one microtask: {imageId, resolve}

/**
 * Find the thumbnail of an image. Lookups of the same moment share one transaction.
 *
 * @param {string} imageId
 * @returns {Promise<string | null>} a URL for an `img`, or null if this browser has no thumbnail. Never rejects.
 */
export function localPicture(imageId) {
    return new Promise((resolve) => {
        if (pendingLookups === null) {
            pendingLookups = [];
            queueMicrotask(runLookups);
        }
        pendingLookups.push({ imageId, resolve });
    });
}

/** Set the source of each `img[data-local]` in `root` to the thumbnail of its image, if this browser has one. */
export async function showLocalPictures(root) {
    for (const image of root.querySelectorAll("img[data-local]")) {
        const url = await localPicture(image.dataset.local);
        if (url) image.src = url;
    }
}

/**
 * Return a thumbnail's URL: `data:`, since the browser's main process handles each `blob:` URL, which delays scrolling
 * through thousands of images, and a `blob:` URL has to be revoked.
 *
 * @param {Thumbnail} picture - see upload/batch.js.
 */
export function dataUrl({ type, bytes }) {
    return `data:${type};base64,${btoa(String.fromCharCode(...new Uint8Array(bytes)))}`;
}

/**
 * Store thumbnails of a job's images, and delete the oldest ones above the limit. Never rejects.
 *
 * @param {string} jobId
 * @param {{imageId: string, picture: Thumbnail}[]} pictures - see upload/batch.js.
 */
export async function keepPictures(jobId, pictures) {
    const at = Date.now();
    await transact("readwrite", (store) => {
        for (const { imageId, picture } of pictures) store.put({ imageId, jobId, at, ...picture });
        evict(store, at);
    });
}

/** Delete the thumbnails of a job. Never rejects, and takes at most a few seconds. */
export async function deleteJobPictures(jobId) {
    await transact("readwrite", (store) => deleteAll(store, store.index("jobId").getAllKeys(jobId)));
}

async function runLookups() {
    const lookups = pendingLookups;
    pendingLookups = null;
    const urls = new Map();
    const oldest = Date.now() - LIFETIME_MS;
    await transact("readonly", (store) => {
        for (const { imageId } of lookups) {
            const request = store.get(imageId);
            request.onsuccess = () => request.result?.at >= oldest && urls.set(imageId, dataUrl(request.result));
        }
    });
    for (const { imageId, resolve } of lookups) resolve(urls.get(imageId) ?? null);
}

/** Delete expired thumbnails, and the oldest ones above `MAX_PICTURES`. */
function evict(store, now) {
    const byAge = store.index("at");
    deleteAll(store, byAge.getAllKeys(IDBKeyRange.upperBound(now - LIFETIME_MS)));
    const counting = store.count();
    counting.onsuccess = () => {
        const excess = counting.result - MAX_PICTURES;
        if (excess > 0) deleteAll(store, byAge.getAllKeys(null, excess));
    };
}

function deleteAll(store, keysRequest) {
    keysRequest.onsuccess = () => {
        for (const key of keysRequest.result) store.delete(key);
    };
}

/** Run `operation` in a transaction and wait until it is complete. Ignores errors: thumbnails are optional. */
async function transact(mode, operation) {
    try {
        opening ??= withTimeout(openDatabase());
        const database = await opening;
        await withTimeout(completeTransaction(database, mode, operation));
    } catch {
        // The browser's storage is off, full or broken.
    }
}

function withTimeout(promise) {
    return Promise.race([
        promise,
        new Promise((_, reject) => {
            setTimeout(() => reject(new Error("the browser's storage did not respond")), STORAGE_TIMEOUT_MS);
        }),
    ]);
}

function completeTransaction(database, mode, operation) {
    return new Promise((resolve, reject) => {
        const transaction = database.transaction(STORE, mode);
        transaction.oncomplete = resolve;
        transaction.onabort = () => reject(transaction.error);
        operation(transaction.objectStore(STORE));
    });
}

function openDatabase() {
    return new Promise((resolve, reject) => {
        const request = indexedDB.open(DATABASE, VERSION);
        request.onupgradeneeded = () => {
            const store = request.result.createObjectStore(STORE, { keyPath: "imageId" });
            store.createIndex("jobId", "jobId");
            store.createIndex("at", "at");
        };
        request.onerror = () => reject(request.error);
        request.onsuccess = () => {
            request.result.onversionchange = () => request.result.close(); // another tab has a newer version
            resolve(request.result);
        };
    });
}
