// A state that the page can do without: it shows less until the server responds.

const TIMEOUT_MS = 10_000;

/** Return the JSON at an address, or null if the server has none for the visitor, or does not respond in time. */
export async function fetchState(url) {
    try {
        const response = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
        return response.ok ? await response.json() : null;
    } catch {
        return null;
    }
}
