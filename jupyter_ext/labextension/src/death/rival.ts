import { Dialog, type ISessionContext } from '@jupyterlab/apputils';
import type { ITranslator } from '@jupyterlab/translation';

/**
 * Close what JupyterLab itself says of a notebook whose kernel died: *Kernel Restarting* or *Error Starting Kernel*,
 * neither of which says why. There is no setting for it; its dialogs are known by their titles, in its own translation.
 */
export function hushLab(context: ISessionContext, translator: ITranslator): void {
  const trans = translator.load('jupyterlab');
  const titles = new Set([trans.__('Kernel Restarting'), trans.__('Error Starting Kernel')]);
  const path = context.session?.path ?? '';
  Dialog.tracker.forEach(dialog => {
    const header = dialog.node.querySelector('.jp-Dialog-header')?.textContent?.trim() ?? '';
    const isOurs = dialog.hasClass(DEATH_CLASS);
    const isOther = header === trans.__('Kernel Restarting') && !dialog.node.textContent?.includes(path);
    if (!isOurs && titles.has(header) && !isOther) {
      dialog.reject();
    }
  });
}

/** The class of our own dialogs. */
export const DEATH_CLASS = 'hyper-Death';
