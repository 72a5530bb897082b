/** Sizes, times and names in words. Pure. */

const SIZES = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
const SECONDS: [number, string][] = [
  [86_400, 'd'],
  [3_600, 'h'],
  [60, 'min'],
  [1, 's']
];

/** A size with at most three digits that count: 512 MiB, 1.5 GiB. */
export function bytes(value: number): string {
  let unit = 0;
  while (value >= 1024 && unit < SIZES.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 && unit ? trim(value.toFixed(1)) : Math.round(value)} ${SIZES[unit]}`;
}

/** How much of how much, in the unit of the whole: 210 of 512 MiB, 0.2 of 1 GiB. */
export function bytesOf(part: number, whole: number): [string, string] {
  const [number = '', unit = ''] = bytes(whole).split(' ');
  const scaled = part / 1024 ** Math.max(SIZES.indexOf(unit), 0);
  return [scaled < 10 ? trim(scaled.toFixed(1)) : String(Math.round(scaled)), `${number} ${unit}`];
}

export function mebibytes(value: number): string {
  return bytes(value * 1024 * 1024);
}

/** How long, in its largest unit: 12 s, 3 min, 2 h; half units below ten where that is exact enough: 1.5 h. */
export function duration(seconds: number): string {
  for (const [size, name] of SECONDS) {
    const count = seconds / size;
    if (count >= 1) {
      const rounded = count < 10 && size > 1 ? Math.round(count * 2) / 2 : Math.round(count);
      return `${trim(String(rounded))} ${name}`;
    }
  }
  return '0 s';
}

/** A part of a whole as a number from 0 to 1. */
export function share(part: number, whole: number): number {
  return whole > 0 ? Math.min(Math.max(part / whole, 0), 1) : 0;
}

/** An image's name without what goes without saying. */
export function imageName(image: string): string {
  return image.replace(/:latest$/, '');
}

/** The last part of a path. */
export function basename(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** More memory for a sandbox that had too little: twice as much, up to the cap; null where the cap is reached. */
export function moreMemory(memory_mib: number, cap: number | null): number | null {
  const more = Math.min(memory_mib * 2, cap ?? Infinity);
  return more > memory_mib ? more : null;
}

function trim(number: string): string {
  return number.replace(/\.0$/, '');
}
