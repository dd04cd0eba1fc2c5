// What this tab remembers of the upload of a job, so that it can go on after a reload.

/**
 * @typedef {object} UploadMemory
 * @property {[string, number][]} unsent - key and position of each image that was not sent when this was written.
 * @property {{name: string, reason: string, position: number}[]} refused
 * @property {number} hidden - number of hidden files and system files.
 */

const storageKey = (jobId) => `upload:${jobId}`;

/**
 * Remember an upload, or forget it if there is nothing to remember. Without storage a reload forgets it.
 *
 * @param {string} jobId
 * @param {UploadMemory} memory
 */
export function remember(jobId, memory) {
    try {
        if (!memory.unsent.length && !memory.refused.length && !memory.hidden) forget(jobId);
        else sessionStorage.setItem(storageKey(jobId), JSON.stringify(memory));
    } catch {
        // The browser's storage is off or full.
    }
}

/** @returns {UploadMemory | null} */
export function recall(jobId) {
    try {
        return JSON.parse(sessionStorage.getItem(storageKey(jobId)));
    } catch {
        return null;
    }
}

export function forget(jobId) {
    try {
        sessionStorage.removeItem(storageKey(jobId));
    } catch {
        // The browser's storage is off.
    }
}
