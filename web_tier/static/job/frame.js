// The frame over the picture of an image: what the network saw, by the preprocessing that its bundle states.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Draw the frame once the picture is loaded, which is upright as the network's is; app_tier/central_crop.py crops so.
 *
 * @param {HTMLElement} shown - of image.html.
 */
export function showFrame(shown) {
    const { fit, resize, crop } = shown.dataset;
    const picture = shown.querySelector("img");
    if (!fit) return;
    const [[resizedHeight, resizedWidth], [cropHeight, cropWidth]] = [resize, crop].map((size) => size.split(" ").map(Number));
    const draw = () => {
        const { naturalWidth, naturalHeight } = picture;
        const scales = [resizedWidth / naturalWidth, resizedHeight / naturalHeight];
        const [across, down] = {
            crop: [Math.max(...scales), Math.max(...scales)],
            stretch: scales,
            pad: [Math.min(...scales), Math.min(...scales)],
        }[fit];
        const width = Math.min(naturalWidth, cropWidth / across);
        const height = Math.min(naturalHeight, cropHeight / down);
        const frame = document.createElementNS(SVG, "svg");
        frame.setAttribute("class", "frame");
        frame.setAttribute("aria-hidden", "true");
        frame.setAttribute("viewBox", `0 0 ${naturalWidth} ${naturalHeight}`); // drawn as `object-fit: contain` does
        const place = { x: (naturalWidth - width) / 2, y: (naturalHeight - height) / 2, width, height };
        const rectangle = frame.appendChild(document.createElementNS(SVG, "rect"));
        for (const [name, value] of Object.entries(place)) rectangle.setAttribute(name, value);
        picture.after(frame);
        shown.querySelector(".seen").hidden = false;
    };
    if (picture.complete && picture.naturalWidth) draw();
    else picture.addEventListener("load", draw, { once: true });
}

for (const shown of document.querySelectorAll("#image > .shown")) showFrame(shown);
document.addEventListener("image-shown", ({ detail }) => {
    const shown = detail.article.querySelector(".shown");
    if (shown) showFrame(shown);
});
