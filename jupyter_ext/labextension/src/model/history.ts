/** How much processor time a sandbox has used lately. Pure. */

/** What was measured at a time (in seconds since the epoch), in per cent of one processor. */
export interface Sample {
  at: number;
  value: number;
}

/** How far back samples are kept, in seconds. */
export const SPAN_S = 60;

/** The samples with one more, without those that are too old; one that was measured before changes nothing. */
export function remember(samples: readonly Sample[], at: number, value: number): readonly Sample[] {
  const last = samples.at(-1);
  if (last && at <= last.at) {
    return samples;
  }
  return [...samples.filter(each => each.at > at - SPAN_S), { at, value }];
}

/**
 * The outline of the samples as an SVG path, `width` by `height`, the newest at the right edge.
 *
 * A gap of more than a quarter of the span (a sleeping tab) is left open.
 */
export function sparkline(samples: readonly Sample[], most: number, width: number, height: number): string {
  const newest = samples.at(-1);
  if (!newest) {
    return '';
  }
  let path = '';
  let before = -Infinity;
  for (const { at, value } of samples) {
    const x = width * (1 - (newest.at - at) / SPAN_S);
    const y = height * (1 - Math.min(value / Math.max(most, 1), 1));
    path += `${at - before > SPAN_S / 4 ? 'M' : 'L'}${x.toFixed(1)} ${y.toFixed(1)}`;
    before = at;
  }
  return path;
}
