/** A sandbox in words. Pure, but for the translator. */
import type { TranslationBundle } from '@jupyterlab/translation';
import { headline } from './death/explain';
import { basename, bytes, bytesOf, duration, mebibytes } from './model/figures';
import type { Sandbox } from './model/types';

/** What a person calls it: its notebook, else its name. */
export function title(sandbox: Sandbox): string {
  return (sandbox.kernel && basename(sandbox.kernel.path)) || sandbox.name;
}

/** Its state and activity, in a word or two. */
export function state(sandbox: Sandbox, trans: TranslationBundle): string {
  switch (sandbox.state) {
    case 'created':
    case 'booting':
      return trans.__('starting');
    case 'stopping':
      return trans.__('stopping');
    case 'exited':
      return sandbox.death ? headline(sandbox.death, trans) : trans.__('ended');
    case 'running':
      return activity(sandbox, trans);
  }
}

function activity(sandbox: Sandbox, trans: TranslationBundle): string {
  switch (sandbox.activity) {
    case 'busy':
      return trans.__('busy');
    case 'idle':
      return trans.__('idle');
    case 'hung':
      return trans.__('hangs');
    case '':
      return trans.__('running');
  }
}

/** How strong what keeps it apart is. */
export function tier(sandbox: { tier: string }, trans: TranslationBundle): string {
  switch (sandbox.tier) {
    case 'hardware':
      return trans.__('hardware isolation');
    case 'software':
      return trans.__('software isolation');
    default:
      return trans.__('isolation not known yet');
  }
}

/** How many things the firewall took out of its output. */
export function removedCount(sandbox: Sandbox): number {
  return Object.values(sandbox.removed).reduce((sum, count) => sum + count, 0);
}

/** How much memory it uses of how much; only how much it may, before that was measured. */
export function memory(sandbox: Sandbox, trans: TranslationBundle): string {
  const used = sandbox.usage.memory_bytes;
  return used === null
    ? mebibytes(sandbox.memory_mib)
    : trans.__('%1 of %2', ...bytesOf(used, sandbox.memory_mib * 1024 * 1024));
}

/** How much of one processor it uses; a dash before that was measured. */
export function processor(sandbox: Sandbox): string {
  const { cpu_percent } = sandbox.usage;
  return cpu_percent === null ? '–' : `${Math.round(cpu_percent)} %`;
}

/** What a way of seeing the notebook's folder means. */
export function files(mode: string, trans: TranslationBundle): string {
  const known: Record<string, string> = {
    none: trans.__('no files'),
    copy: trans.__('a copy; changes come back by review'),
    ro: trans.__('the folder itself, to read only'),
    rw: trans.__('the folder itself, with the right to write')
  };
  return known[mode] ?? mode;
}

/** Its limits, each as what and how much; what has no limit is left out. */
export function limits(sandbox: Sandbox, trans: TranslationBundle): [string, string][] {
  const { limits: bound } = sandbox;
  const all: [number, string, string][] = [
    [sandbox.memory_mib, trans.__('Memory'), mebibytes(sandbox.memory_mib)],
    [sandbox.cpus, trans.__('Processors'), cpus(sandbox, trans)],
    [bound.scratch_mib, trans.__('Disk space'), mebibytes(bound.scratch_mib)],
    [bound.processes, trans.__('Processes'), String(bound.processes)],
    [bound.wall_s, trans.__('Life time'), duration(bound.wall_s)],
    [bound.cell_s, trans.__('Time for a cell'), duration(bound.cell_s)],
    [bound.output_bytes, trans.__('Output of a cell'), bytes(bound.output_bytes)],
    [bound.output_bytes_per_s, trans.__('Rate of output'), trans.__('%1/s', bytes(bound.output_bytes_per_s))]
  ];
  return all.filter(([value]) => value > 0).map(([, name, text]) => [name, text]);
}

function cpus(sandbox: Sandbox, trans: TranslationBundle): string {
  const percent = sandbox.limits.cpu_percent;
  return percent ? trans.__('%1, of which %2 %', sandbox.cpus, percent) : String(sandbox.cpus);
}
