// What this browser remembers of the user's choices. Without storage, a choice applies to the open page only.

export function stored(key) {
    try {
        return localStorage.getItem(key);
    } catch {
        return null;
    }
}

export function store(key, value) {
    try {
        localStorage.setItem(key, value);
    } catch {
        // The browser's storage is off or full.
    }
}
