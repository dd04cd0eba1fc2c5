// Uploads straight into the input bucket: the server signs a form for each pack of images, and accepts what has arrived.

import { ApiError, StoppedError, post, repeatableHeaders } from "./api.js";
import { tarOf } from "./tar.js";

/** Of a name; the server takes no more here. */
const MAX_NAME_CHARACTERS = 1_024;

/**
 * Upload images to a job, as `addImages` of api.js: with the same parameters, answer and errors. A second call with the
 * same key must have the same items; it sends them again. If a file cannot be read any more, the images of its pack are
 * rejected: this one for that reason, the others so that they are sent again with another key.
 */
export async function addImagesDirectly(jobId, items, remaining, key, traceId, onProgress, signal) {
    const headers = { "Content-Type": "application/json", ...repeatableHeaders(key, traceId) };
    const files = items.map(({ name, blob, type, position }) => {
        const end = [...name].slice(-MAX_NAME_CHARACTERS).join("");
        return { name: end, bytes: blob.size, content_type: type, position };
    });
    const path = `/api/v1/jobs/${jobId}/uploads`;
    const offer = await post(path, headers, JSON.stringify({ files, remaining }), () => {}, signal);
    if (!offer.uploads) return offer; // every file is rejected
    const unreadable = await sendForms(offer.uploads, items, onProgress, signal);
    const { accepted, rejected } = await post(offer.links.commit, repeatableHeaders(key, traceId), null, () => {});
    const missing = rejected.map((each) => (each.code === "missing" ? { ...each, ...reasonFor(each, unreadable) } : each));
    return { accepted, rejected: [...offer.rejected, ...missing] };
}

export const UNREADABLE_REASON = "it was deleted or changed since it was chosen";

function reasonFor({ index }, unreadable) {
    if (unreadable.has(index)) return { code: "unreadable", message: UNREADABLE_REASON };
    return { code: "unavailable", message: "another file was deleted or changed while both were sent" };
}

/** Send each form, unless one of its files cannot be read; return the indices of the items that cannot. */
async function sendForms(uploads, items, onProgress, signal) {
    const unreadable = new Set();
    const total = items.reduce((sum, { blob }) => sum + blob.size, 0);
    let sent = 0;
    for (const { upload, images } of uploads) {
        const members = images.map(({ index, member }) => ({ index, name: member, blob: items[index].blob }));
        const readable = await Promise.all(members.map(({ blob }) => isReadable(blob)));
        for (const { index } of members.filter((_, place) => !readable[place])) unreadable.add(index);
        const bytes = members.reduce((sum, { blob }) => sum + blob.size, 0);
        const onShare = (share) => onProgress((sent + share * bytes) / total);
        if (readable.every(Boolean)) await sendForm(upload, members, onShare, signal);
        sent += bytes;
    }
    return unreadable;
}

async function sendForm({ url, fields }, members, onShare, signal) {
    if (signal.aborted) throw new StoppedError();
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    form.append("file", members[0].name ? tarOf(members) : members[0].blob);
    try {
        await post(url, {}, form, onShare, signal);
    } catch (error) {
        // The form has expired, as on a slow line: a second call gets another one.
        if (error instanceof ApiError && error.status === 403) error.canRetry = true;
        throw error;
    }
}

/** Return whether the browser can read a file: it cannot once the file was deleted or changed. */
export async function isReadable(blob) {
    try {
        await blob.slice(0, 1).arrayBuffer();
        return true;
    } catch {
        return false;
    }
}
