// What this browser remembers: of the user's choices for good, and of an upload as long as its tab is open. Without
// storage, a choice applies to the open page only, and a reload forgets the upload.

/** @param {"localStorage" | "sessionStorage"} [area] */
export function stored(key, area = "localStorage") {
    try {
        return window[area].getItem(key);
    } catch {
        return null;
    }
}

/** Store a text; null removes it. */
export function store(key, value, area = "localStorage") {
    try {
        if (value === null) window[area].removeItem(key);
        else window[area].setItem(key, value);
    } catch {
        // The browser's storage is off or full.
    }
}
