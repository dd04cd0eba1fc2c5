// Small pictures of images that this browser uploaded, kept by it alone: the server deletes an image that is not to be
// kept as soon as its label is stored. Where the browser keeps nothing (a private window, a full disk) there are none.

const DATABASE = "fleetsight";
const PICTURES = "pictures"; // {imageId, jobId, at (milliseconds since 1970), type, bytes}
const VERSION = 1;
const MAX_PICTURES = 20_000;
const LIFETIME_MS = 7 * 24 * 3_600_000;
/** If the storage of a browser hangs, the page must not wait for it. */
const PATIENCE_MS = 3_000;

let opened = null;
let asked = null; // those who ask in the same moment: {imageId, resolve}

/**
 * Find the picture of an image. Many that are asked for at once are read together.
 *
 * @param {string} imageId
 * @returns {Promise<string | null>} an address for an `img`; null where this browser has no picture. Never rejects.
 */
export function localPicture(imageId) {
    return new Promise((resolve) => {
        if (asked === null) {
            asked = [];
            queueMicrotask(answer);
        }
        asked.push({ imageId, resolve });
    });
}

/**
 * Return the address of a picture: `data:`, since each `blob:` address is a call to the browser's main process, which a
 * page that scrolls through thousands of them waits for, and has to be revoked.
 *
 * @param {{type: string, bytes: ArrayBuffer}} picture
 */
export function addressOf({ type, bytes }) {
    return `data:${type};base64,${btoa(String.fromCharCode(...new Uint8Array(bytes)))}`;
}

/**
 * Keep pictures of images of a job, and let go of the oldest where there are too many. Never rejects.
 *
 * @param {string} jobId
 * @param {{imageId: string, picture: {type: string, bytes: ArrayBuffer}}[]} pictures
 */
export async function keepPictures(jobId, pictures) {
    const at = Date.now();
    await quietly("readwrite", (store) => {
        for (const { imageId, picture } of pictures) store.put({ imageId, jobId, at, ...picture });
        letGo(store, at);
    });
}

/** Let go of every picture of a job. Never rejects, and takes no longer than a few seconds. */
export async function forgetJob(jobId) {
    await quietly("readwrite", (store) => deleteAll(store, store.index("jobId").getAllKeys(jobId)));
}

async function answer() {
    const questions = asked;
    asked = null;
    const found = new Map();
    const oldest = Date.now() - LIFETIME_MS;
    await quietly("readonly", (store) => {
        for (const { imageId } of questions) {
            const request = store.get(imageId);
            request.onsuccess = () => request.result?.at >= oldest && found.set(imageId, addressOf(request.result));
        }
    });
    for (const { imageId, resolve } of questions) resolve(found.get(imageId) ?? null);
}

/** Delete what is too old, and the oldest of what is too many. */
function letGo(store, now) {
    const byAge = store.index("at");
    deleteAll(store, byAge.getAllKeys(IDBKeyRange.upperBound(now - LIFETIME_MS)));
    const counted = store.count();
    counted.onsuccess = () => {
        const excess = counted.result - MAX_PICTURES;
        if (excess > 0) deleteAll(store, byAge.getAllKeys(null, excess));
    };
}

function deleteAll(store, keys) {
    keys.onsuccess = () => {
        for (const key of keys.result) store.delete(key);
    };
}

/** Do `act` in a transaction and wait for its end. A browser that keeps nothing is no error: there is no picture then. */
async function quietly(mode, act) {
    try {
        opened ??= inTime(open());
        const database = await opened;
        await inTime(ended(database, mode, act));
    } catch {
        // Storage that is switched off, full or broken.
    }
}

function inTime(promise) {
    return Promise.race([
        promise,
        new Promise((_, reject) => setTimeout(() => reject(new Error("the browser's storage hangs")), PATIENCE_MS)),
    ]);
}

function ended(database, mode, act) {
    return new Promise((resolve, reject) => {
        const transaction = database.transaction(PICTURES, mode);
        transaction.oncomplete = resolve;
        transaction.onabort = () => reject(transaction.error);
        act(transaction.objectStore(PICTURES));
    });
}

function open() {
    return new Promise((resolve, reject) => {
        const request = indexedDB.open(DATABASE, VERSION);
        request.onupgradeneeded = () => {
            const store = request.result.createObjectStore(PICTURES, { keyPath: "imageId" });
            store.createIndex("jobId", "jobId");
            store.createIndex("at", "at");
        };
        request.onerror = () => reject(request.error);
        request.onsuccess = () => {
            request.result.onversionchange = () => request.result.close(); // a newer page in another tab
            resolve(request.result);
        };
    });
}
