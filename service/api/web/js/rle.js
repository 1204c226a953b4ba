// COCO compressed run-length masks -> pixels. Runs go down the columns, starting with background.

/** Run lengths of a compressed COCO string: six bits a character, five of them data, deltas from the run before last. */
export function runLengths(counts) {
  const runs = [];
  let at = 0;
  while (at < counts.length) {
    let value = 0;
    let shift = 0;
    let bits;
    do {
      bits = counts.charCodeAt(at++) - 48;
      value |= (bits & 31) << shift;
      shift += 5;
    } while (bits & 32);
    if (bits & 16) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/** Write `label` into a row-major label map [height * width] wherever the mask is set. */
export function paintRle(rle, label, labelMap) {
  const [height, width] = rle.size;
  let column = 0;
  let row = 0;
  let inside = false;
  for (let run of runLengths(rle.counts)) {
    while (run > 0 && column < width) {
      const take = Math.min(run, height - row);
      if (inside) {
        for (let y = row, at = row * width + column; y < row + take; y++, at += width) labelMap[at] = label;
      }
      run -= take;
      row += take;
      if (row === height) {
        row = 0;
        column++;
      }
    }
    inside = !inside;
  }
}
