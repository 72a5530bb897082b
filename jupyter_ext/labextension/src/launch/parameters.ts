/** From a kernelspec's parameters (a JSON schema, as JEP 87 has it) and hyperd's policy to what may be chosen. Pure. */
import type { Image, Limits, Policy, Wish } from '../model/types';

export type Value = string | number;

interface Property {
  title?: string;
  description?: string;
  enum?: Value[];
}

/** `metadata.parameters` of a kernelspec. */
export interface Parameters {
  properties?: Record<string, Property>;
}

/** One thing to choose; the first value, null, is what policy gives by itself. */
export interface Field {
  name: string;
  title: string;
  description: string;
  values: Value[];
  /** What null means; null itself is no limit. Undefined where that is not known. */
  fallback: Value | null | undefined;
  /** The most that policy allows; null is no limit. */
  cap: number | null;
}

/** Which limits stand in `limits` of a wish. */
const LIMITS: ReadonlySet<string> = new Set<keyof Limits>([
  'cpu_percent',
  'scratch_mib',
  'processes',
  'wall_s',
  'cell_s',
  'output_bytes',
  'output_bytes_per_s'
]);

/** The fields, in the order of the schema, with only the values that policy allows. */
export function fields(parameters: Parameters, policy: Policy | null, images: readonly Image[]): Field[] {
  return Object.entries(parameters.properties ?? {}).map(([name, property]) => {
    const allowance = policy?.sandbox[name];
    const cap = allowance?.cap ?? null;
    return {
      name,
      title: property.title ?? name,
      description: property.description ?? '',
      values: allowed(name, property.enum ?? [], cap, policy, images),
      fallback: allowance ? allowance.default : usual(name, property.enum ?? [], policy),
      cap
    };
  });
}

/** What stands in for a choice that is not made, of what policy has no default for. */
function usual(name: string, values: Value[], policy: Policy | null): Value | undefined {
  const isPolicys = name !== 'image' && name !== 'files';
  return isPolicys || (name === 'files' && !policy) ? undefined : values[0];
}

function allowed(
  name: string,
  values: Value[],
  cap: number | null,
  policy: Policy | null,
  images: readonly Image[]
): Value[] {
  if (name === 'image') {
    return [...new Set([...values, ...images.flatMap(each => each.names)])];
  }
  if (name === 'files') {
    // What lets a sandbox reach the folder itself is offered once policy is known to allow it.
    const modes = policy?.files.modes ?? ['copy', 'none'];
    return values.filter(each => modes.includes(String(each)));
  }
  if (cap === null) {
    return values;
  }
  const below = values.filter(each => Number(each) <= cap);
  return below.some(each => each === cap) ? below : [...below, cap];
}

/** What was chosen, as a wish for the notebook; what was left to policy is left out. */
export function wish(path: string, chosen: Record<string, Value | null>): Wish {
  const made: Record<string, unknown> = { path };
  const limits: Record<string, Value> = {};
  for (const [name, value] of Object.entries(chosen)) {
    if (value !== null) {
      (LIMITS.has(name) ? limits : made)[name] = value;
    }
  }
  return (Object.keys(limits).length ? { ...made, limits } : made) as unknown as Wish;
}
