// Requests that end: a machine that hangs ends no connection by itself.

/** A poll without a whole response for this long has failed. */
export const POLL_TIMEOUT_MS = 10_000;
const RESPONSE_TIMEOUT_MS = 30_000;

/** Fetch an address, and fail when the whole response is not here within so many milliseconds. */
export function fetchInTime(address, request, milliseconds = RESPONSE_TIMEOUT_MS) {
    return fetch(address, { ...request, signal: AbortSignal.timeout(milliseconds) });
}

/** Return the JSON at an address, or null if the server has none for the visitor, or does not respond in time. */
export async function fetchState(url) {
    try {
        const response = await fetchInTime(url, { cache: "no-store" }, POLL_TIMEOUT_MS);
        return response.ok ? await response.json() : null;
    } catch {
        return null;
    }
}
