// Drawing at the pace of the screen.

/** Return a function that calls `draw` before the next frame, once for all calls until then. */
export function oncePerFrame(draw) {
    let isScheduled = false;
    return () => {
        if (isScheduled) return;
        isScheduled = true;
        requestAnimationFrame(() => {
            isScheduled = false;
            draw();
        });
    };
}
