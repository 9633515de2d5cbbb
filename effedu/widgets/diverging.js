/* Shared by the widgets that colour numbers on both sides of zero. */

/** 256 shades: the warm colour, the paper's in the middle, the accent. */
function diverging(el) {
  const [low, middle, high] = ["--fx-warm", "--fx-paper", "--fx-accent"].map((name) => toLab(color(el, name)));
  const shades = new Uint8Array(3 * 256);
  for (let i = 0; i < 256; i += 1) {
    const t = Math.abs(i - 127.5) / 127.5;
    const to = i < 128 ? low : high;
    shades.set(fromLab(middle.map((c, k) => c + t * (to[k] - c))), 3 * i);
  }
  return shades;
}
