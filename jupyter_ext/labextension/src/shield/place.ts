import type { ISessionContext } from '@jupyterlab/apputils';
import type { Kernel } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { ISandboxes } from '../model/tokens';
import type { Sandbox } from '../model/types';

/** Where a notebook runs. */
export type Place =
  { kind: 'nowhere' } | { kind: 'local' } | { kind: 'starting' } | { kind: 'sandbox'; sandbox: Sandbox };

/** @param inSandboxes - whether kernels of a kernelspec (its name) run in sandboxes. */
export function placeOf(
  context: ISessionContext | undefined,
  model: ISandboxes,
  inSandboxes: (name: string) => boolean
): Place {
  const kernel: Kernel.IKernelConnection | null | undefined = context?.session?.kernel;
  if (!kernel) {
    return { kind: 'nowhere' };
  }
  const sandbox = model.byKernel(kernel.id);
  if (sandbox) {
    return { kind: 'sandbox', sandbox };
  }
  return { kind: inSandboxes(kernel.name) ? 'starting' : 'local' };
}

/** Where it runs, short enough for a toolbar. */
export function shortWords(place: Place, trans: TranslationBundle): string {
  switch (place.kind) {
    case 'nowhere':
      return trans.__('No kernel');
    case 'local':
      return trans.__('Local: no sandbox');
    case 'starting':
      return trans.__('Sandbox');
    case 'sandbox':
      return place.sandbox.tier === 'hardware'
        ? trans.__('Sandbox: hardware')
        : place.sandbox.tier === 'software'
          ? trans.__('Sandbox: software')
          : trans.__('Sandbox');
  }
}

/** Where it runs, in a sentence for those who hover or listen. */
export function longWords(place: Place, trans: TranslationBundle): string {
  switch (place.kind) {
    case 'nowhere':
      return trans.__('This notebook has no kernel.');
    case 'local':
      return trans.__(
        'This notebook runs on the server itself, without a sandbox: its code can do what you can.'
      );
    case 'starting':
      return trans.__('This notebook runs in a sandbox of which nothing is known yet.');
    case 'sandbox':
      return tierWords(place.sandbox.tier, trans);
  }
}

function tierWords(tier: string, trans: TranslationBundle): string {
  switch (tier) {
    case 'hardware':
      return trans.__('This notebook runs in a virtual machine of its own, isolated by the processor.');
    case 'software':
      return trans.__(
        'This notebook runs in a virtual machine of its own, isolated by software only: for code that you half trust.'
      );
    default:
      return trans.__('This notebook runs in a virtual machine of its own.');
  }
}
