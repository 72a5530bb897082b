/** What a named death means for the one whose notebook it was. Pure, but for the translator. */
import type { TranslationBundle } from '@jupyterlab/translation';

export const OUT_OF_MEMORY = 'out of memory';
export const KILLED = 'killed';

/** The headline of a death. */
export function headline(death: string, trans: TranslationBundle): string {
  const known: Record<string, string> = {
    [OUT_OF_MEMORY]: trans.__('Out of memory'),
    'wall limit': trans.__('Time is up'),
    'cell limit': trans.__('A cell ran too long'),
    'disk full': trans.__('Disk full'),
    'output limit': trans.__('Too much output'),
    'too many processes': trans.__('Too many processes'),
    'cpu limit': trans.__('Processor time used up'),
    'guest panic': trans.__('The sandbox crashed'),
    [KILLED]: trans.__('Killed'),
    'owner gone': trans.__('Its owner is gone'),
    'host lost': trans.__('The sandbox was lost'),
    'firewall violation': trans.__('The sandbox broke the rules')
  };
  return known[death] ?? trans.__('The kernel died: %1', death);
}

/** What happened and what helps, in plain words; empty for a death that this extension does not know. */
export function advice(death: string, trans: TranslationBundle): string {
  const known: Record<string, string> = {
    [OUT_OF_MEMORY]: trans.__(
      'The code needed more memory than its sandbox has. Give it more, or work on less data at a time.'
    ),
    'wall limit': trans.__('The sandbox lived as long as it may. A restart begins a new life.'),
    'cell limit': trans.__('A cell ran longer than a cell may, and did not stop when it was interrupted.'),
    'disk full': trans.__(
      'The code filled the space that its sandbox may write to. Delete files, or write less.'
    ),
    'output limit': trans.__(
      'A cell showed more than a cell may, and did not stop when it was interrupted. Print less, or write to a file.'
    ),
    'too many processes': trans.__('The code started more processes and threads than its sandbox may have.'),
    'cpu limit': trans.__(
      'All the processor time that you have for today is used up. Nothing starts until midnight.'
    ),
    'guest panic': trans.__('The operating system inside the sandbox gave up. The host is unharmed.'),
    [KILLED]: trans.__('Somebody ended the sandbox by force.'),
    'owner gone': trans.__('The process to which the sandbox belonged has ended.'),
    'host lost': trans.__('The process that held the sandbox on the host ended unexpectedly.'),
    'firewall violation': trans.__(
      'The sandbox sent what no well-behaved kernel sends, so it was ended. If you did not expect this, do not trust its code.'
    )
  };
  return known[death] ?? '';
}

/** The reason without the name that it begins with, to go on a sentence; empty where it says no more than that. */
export function details(death: string, reason: string): string {
  const rest = reason.startsWith(`${death}: `) ? reason.slice(death.length + 2) : reason;
  if (!rest || rest === death) {
    return '';
  }
  return /[.!?]$/.test(rest) ? rest : `${rest}.`;
}
