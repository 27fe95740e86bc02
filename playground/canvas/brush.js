/** What a brush does to the sand under it. */

// Sand slides where it is steeper than this, in heights per cell.
const REPOSE = 0.024;

export const TOOLS = ["raise", "lower", "smooth", "flatten"];

/**
 * Press the brush once.
 *
 * @param terrain the sand, changed in place.
 * @param tool one of TOOLS.
 * @param x, y, radius in cells.
 * @param amount 0 to 1: how much of the tool's effect, in the middle.
 * @param level the height that `flatten` goes to.
 * @returns the changed rectangle {left, top, right, bottom}, ends excluded.
 */
export function stamp(terrain, tool, x, y, radius, amount, level) {
  const margin = tool === "raise" || tool === "lower" ? 4 : 0;
  const area = within(terrain, x, y, radius + margin);
  const { width, heights } = terrain;
  const source = tool === "smooth" ? blurred(terrain, area) : null;
  for (let row = area.top; row < area.bottom; row += 1) {
    for (let column = area.left; column < area.right; column += 1) {
      const distance = ((column - x) ** 2 + (row - y) ** 2) / radius ** 2;
      if (distance >= 1) continue;
      const share = amount * (1 - distance) ** 2;
      const cell = row * width + column;
      const height = heights[cell];
      if (tool === "raise") heights[cell] = Math.min(1, height + share);
      else if (tool === "lower") heights[cell] = Math.max(0, height - share);
      else if (tool === "flatten") heights[cell] = height + (level - height) * share;
      else {
        const target = source[(row - area.top) * (area.right - area.left) + column - area.left];
        heights[cell] = height + (target - height) * share;
      }
    }
  }
  if (margin) for (let turn = 0; turn < 2; turn += 1) slide(terrain, area);
  return area;
}

function within({ width, height }, x, y, radius) {
  return {
    left: Math.max(0, Math.floor(x - radius)),
    top: Math.max(0, Math.floor(y - radius)),
    right: Math.min(width, Math.ceil(x + radius) + 1),
    bottom: Math.min(height, Math.ceil(y + radius) + 1),
  };
}

/** Sand falls from a cell to its right and lower neighbours, or back, until it rests. */
function slide({ width, heights }, { left, top, right, bottom }) {
  for (let row = top; row < bottom - 1; row += 1) {
    for (let column = left; column < right - 1; column += 1) {
      const cell = row * width + column;
      for (const other of [cell + 1, cell + width]) {
        const drop = heights[cell] - heights[other];
        if (Math.abs(drop) <= REPOSE) continue;
        const moved = (drop - Math.sign(drop) * REPOSE) * 0.4;
        heights[cell] -= moved;
        heights[other] += moved;
      }
    }
  }
}

/** The area's heights, each the mean of the cells around it: two passes, one per direction. */
function blurred(terrain, { left, top, right, bottom }) {
  const reach = 4;
  const columns = right - left;
  const rows = bottom - top;
  const half = new Float32Array(columns * rows);
  const result = new Float32Array(columns * rows);
  for (let row = 0; row < rows; row += 1) {
    const start = (row + top) * terrain.width;
    for (let column = 0; column < columns; column += 1) {
      let sum = 0;
      for (let step = -reach; step <= reach; step += 1) {
        const at = Math.min(terrain.width - 1, Math.max(0, column + left + step));
        sum += terrain.heights[start + at];
      }
      half[row * columns + column] = sum / (2 * reach + 1);
    }
  }
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      let sum = 0;
      for (let step = -reach; step <= reach; step += 1) {
        sum += half[Math.min(rows - 1, Math.max(0, row + step)) * columns + column];
      }
      result[row * columns + column] = sum / (2 * reach + 1);
    }
  }
  return result;
}
