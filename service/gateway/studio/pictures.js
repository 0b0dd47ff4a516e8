// Pictures on the page: checks before an upload, previews, and calm enlargement of very small ones.

export const IMAGE_LIMIT_BYTES = 15 * 1024 * 1024;

/** Why a file cannot be sent, or null. The server decides about its content; this only saves a hopeless upload. */
export function refusal(file) {
  if (file.size === 0) return `“${file.name}” is empty.`;
  if (file.size > IMAGE_LIMIT_BYTES) {
    return `“${file.name}” has ${(file.size / 1048576).toFixed(1)} MB. A picture may have 15 MB.`;
  }
  const known = file.type.startsWith("image/") || /\.(heic|heif|avif)$/i.test(file.name);
  if (!known) return `“${file.name}” is not a picture. Choose a JPEG, PNG, WebP, HEIC or AVIF file.`;
  return null;
}

/** Show `file` in `img`; when the browser cannot draw its format (HEIC), say so in `unseen` instead. */
export function show(img, unseen, file) {
  release(img);
  const url = URL.createObjectURL(file);
  img.dataset.url = url;
  unseen.hidden = true;
  img.hidden = false;
  img.onerror = () => {
    img.hidden = true;
    unseen.hidden = false;
    unseen.textContent = `${file.name} cannot be previewed here, but it can be sent`;
  };
  img.src = url;
}

export function release(img) {
  if (img.dataset.url) URL.revokeObjectURL(img.dataset.url);
  delete img.dataset.url;
  img.onerror = null;
  img.removeAttribute("src");
}

/** Enlarge a decoded small picture smoothly to about `target` pixels width; larger ones are left alone. */
export function enlarge(img, target) {
  const { naturalWidth: width, naturalHeight: height } = img;
  if (!width || width * 2 > target) return;
  let source = img;
  let [w, h] = [width, height];
  while (w < target) {
    const canvas = document.createElement("canvas");
    [w, h] = [w * 2, h * 2];
    [canvas.width, canvas.height] = [w, h];
    const brush = canvas.getContext("2d");
    brush.imageSmoothingQuality = "high";
    brush.drawImage(source, 0, 0, w, h);
    source = canvas;
  }
  img.dataset.native = `${width} × ${height}`;
  img.src = source.toDataURL("image/png");
}

/** Load `url` into `img` and enlarge it; resolves to its own size in pixels, null when it cannot be drawn. */
export async function load(img, url, target) {
  img.src = url;
  try {
    await img.decode();
  } catch {
    return null;
  }
  const size = { width: img.naturalWidth, height: img.naturalHeight };
  enlarge(img, target);
  await img.decode();
  return size;
}
